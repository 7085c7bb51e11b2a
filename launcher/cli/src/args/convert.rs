//! `bootwright convert`.

use std::path::PathBuf;

use clap::Args;

use super::OutputArgs;

/// `bootwright convert`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bootwright convert vm.yaml | kubectl apply -f -
  kubectl get vm web -o yaml | bootwright convert -
  bootwright convert manifests/*.yaml -o all.yaml

What does not carry over is listed on standard error. Fields without which the machine
would be another one are errors: nothing is written then, unless --lossy is given.
Exit status: 0 converted, 1 failed or lost something, 2 bad usage.")]
pub struct ConvertArgs {
    /// YAML or JSON files of KubeVirt's objects and others; - is standard input
    #[arg(value_name = "FILE", required = true, value_hint = clap::ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Write here and not to standard output
    #[arg(short = 'o', long = "output", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Write what is left of objects that lose something
    #[arg(long)]
    pub lossy: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}
