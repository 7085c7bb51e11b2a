//! The `bootwright` command.

fn main() -> std::process::ExitCode {
    bootwright::main()
}
