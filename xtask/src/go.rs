//! The go command, for what the tests use that is written in Go.

use std::path::PathBuf;

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::{packages, proc};

/// The first release that fetches the toolchain which a module asks for
/// (Go Toolchains, "The go and toolchain lines in go.mod").
const OLDEST: (u32, u32) = (1, 21);

/// The release that Debian's stable suite has.
const OF_DEBIAN: &str = "1.24";

/// The machine's go command or, where it has none that will do, Debian's,
/// unpacked below `target`. Either fetches the release that a module asks for.
///
/// # Errors
/// It cannot be had.
pub(crate) fn path() -> Result<PathBuf> {
    if version("go".into()).is_some_and(|version| version >= OLDEST) {
        return Ok("go".into());
    }
    let names = [
        format!("golang-{OF_DEBIAN}-go"),
        format!("golang-{OF_DEBIAN}-src"),
    ];
    let dir = packages::unpack("go", &names.each_ref().map(String::as_str))?;
    let go = dir.join(format!("usr/lib/go-{OF_DEBIAN}/bin/go"));
    if version(go.clone()).is_none() {
        bail!("{} does not run", go.display());
    }
    Ok(go)
}

/// A shell in which Go fetches what it needs and says nothing of version
/// control.
///
/// # Errors
/// The working directory is gone.
pub(crate) fn shell() -> Result<Shell> {
    let sh = Shell::new()?;
    sh.set_var("GOTOOLCHAIN", "auto");
    sh.set_var("GOFLAGS", "-trimpath -buildvcs=false");
    Ok(sh)
}

fn version(go: PathBuf) -> Option<(u32, u32)> {
    let sh = shell().ok()?;
    // The toolchain of a module around us does not matter.
    sh.set_var("GOTOOLCHAIN", "local");
    parse(&proc::read(cmd!(sh, "{go} env GOVERSION")).ok()?)
}

/// `go1.24.4` as (1, 24).
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix("go")?.splitn(3, '.');
    let major = numbers.next()?.parse().ok()?;
    // `26rc1` and the like.
    let minor = numbers.next()?;
    let digits = minor.bytes().take_while(u8::is_ascii_digit).count();
    Some((major, minor[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse("go1.26.8"), Some((1, 26)));
        assert_eq!(parse("go1.9"), Some((1, 9)));
        assert_eq!(parse("go1.27rc1"), Some((1, 27)));
        assert_eq!(parse("devel"), None);
        assert!(parse("go1.9") < Some(OLDEST) && parse("go1.21") >= Some(OLDEST));
    }
}
