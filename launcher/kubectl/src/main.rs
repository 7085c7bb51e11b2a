//! `kubectl bootwright`.

fn main() -> std::process::ExitCode {
    bootwright_kubectl::main()
}
