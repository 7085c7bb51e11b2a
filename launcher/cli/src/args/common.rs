//! Arguments that several commands share.

use std::path::PathBuf;

use bootwright_disk::sink::Format;
use bootwright_image::Platform;
use clap::builder::{BoolishValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args};

use super::ByteSize;

/// Takes the name of a disk format, and lists them all in the help.
pub(super) fn format_parser() -> impl TypedValueParser<Value = Format> {
    let names = Format::ALL.iter().map(|format| {
        PossibleValue::new(format.name())
            .aliases(format.alias())
            .help(format.about())
    });
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Format>())
}

/// Where layers are kept.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// Keep layers in DIR [default: $XDG_CACHE_HOME/bootwright or ~/.cache/bootwright]
    #[arg(long, value_name = "DIR", env = "BOOTWRIGHT_STORE", value_hint = clap::ValueHint::DirPath)]
    pub store: Option<PathBuf>,
}

/// How results are told.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print the result as JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors and the result
    #[arg(long, short)]
    pub quiet: bool,
}

/// How registries are reached.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Registry")]
pub struct RegistryArgs {
    /// Require HTTPS and verify certificates; =false also allows plain HTTP
    #[arg(
        long,
        value_name = "BOOL",
        default_value = "true",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set,
        value_parser = BoolishValueParser::new()
    )]
    pub tls_verify: bool,
    /// Use the certificates in DIR: *.crt to trust, *.cert with *.key to show
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub cert_dir: Option<PathBuf>,
    /// Read registry credentials from FILE [default: those of podman, then docker]
    #[arg(long, value_name = "FILE", env = "REGISTRY_AUTH_FILE", value_hint = clap::ValueHint::FilePath)]
    pub authfile: Option<PathBuf>,
    /// Credentials for the registry
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub creds: Option<String>,
    /// How many layers to fetch or send at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub parallel: u32,
    /// How often to try again after a network error or when the registry is busy
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub retries: u32,
}

/// Which image, from where, and how much of it to bear.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Image")]
pub struct ImageArgs {
    /// Take the image for this platform from a multi-platform image [default: the host's]
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]")]
    pub platforms: Vec<String>,
    /// Refuse images with more entries in their layers than this
    #[arg(long, value_name = "N", default_value_t = 5_000_000)]
    pub max_entries: u64,
    /// Refuse layers that unpack to more than this
    #[arg(long, value_name = "SIZE", default_value = "64G")]
    pub max_layer_size: ByteSize,
    /// Refuse layers whose list of entries takes more memory than this
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub max_index_size: ByteSize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub store: StoreArgs,
}

impl ImageArgs {
    /// The one platform that was asked for, if one was.
    ///
    /// # Errors
    /// It is no platform, or there are several.
    pub fn platform(&self) -> anyhow::Result<Option<Platform>> {
        match self.platforms.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one.parse()?)),
            _ => anyhow::bail!("--platform: give one; only `push` takes several"),
        }
    }
}
