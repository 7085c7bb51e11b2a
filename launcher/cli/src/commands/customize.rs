//! From customisation flags to a [`Customization`].

use std::ffi::OsStr;
use std::path::Path;

use anyhow::Context as _;
use bootwright_image::Digest;
use bootwright_rootfs::customize::{
    AuthorizedKey, Customization, FileSpec, MachineId, Password, parse_keys,
};

use crate::args::CustomizeArgs;
use crate::image::Loaded;

/// Largest key or password file that is read, in bytes.
const MAX_SMALL: u64 = 1 << 20;

/// Customisations, with what of them shapes the disk as text: options that
/// differ here give disks with other identifiers.
pub(super) struct Parsed {
    pub customization: Customization,
    pub canonical: String,
}

/// Reads what the flags name.
pub(super) fn parse(args: &CustomizeArgs, loaded: &Loaded) -> anyhow::Result<Parsed> {
    let files: Vec<FileSpec> = args
        .files
        .iter()
        .map(|text| FileSpec::parse(OsStr::new(text)))
        .collect::<Result<_, _>>()
        .context("--file")?;
    let mut keys: Vec<AuthorizedKey> = Vec::new();
    let mut small = Vec::new();
    for path in &args.ssh_keys {
        let text = super::read_limited(path, MAX_SMALL).context("--ssh-key")?;
        let parsed = parse_keys(&text).with_context(|| named("--ssh-key", path))?;
        keys.extend(parsed);
        small.extend(text);
    }
    let root_password = match &args.root_password_file {
        Some(path) => {
            let text = super::read_limited(path, MAX_SMALL).context("--root-password-file")?;
            let named = || named("--root-password-file", path);
            let password = Password::parse(&text).with_context(named)?;
            small.extend(text);
            Some(password)
        }
        None => None,
    };
    let destinations: Vec<_> = files.iter().map(|f| (&f.destination, f.mode)).collect();
    let canonical = format!(
        "{:?} {:?} {} {destinations:?}",
        args.hostname,
        args.users,
        Digest::sha256(&small)
    );
    Ok(Parsed {
        customization: Customization {
            hostname: args.hostname.as_deref().map(str::parse).transpose()?,
            users: args
                .users
                .iter()
                .map(|text| text.parse())
                .collect::<Result<_, _>>()?,
            ssh_keys: keys,
            root_password,
            files,
            machine_id: MachineId::default(),
            identity: loaded.identity.to_string().into_bytes(),
            time: loaded.time,
        },
        canonical,
    })
}

fn named(flag: &str, path: &Path) -> String {
    format!("{flag} {}", path.display())
}
