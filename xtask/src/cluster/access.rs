//! Who may talk to an API server, and how it is found.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// A client, as a kubeconfig file describes it.
#[derive(Debug)]
pub(super) struct Client<'a> {
    pub(super) server: &'a str,
    /// Who vouches for the server.
    pub(super) authority: &'a Path,
    pub(super) user: &'a str,
    pub(super) token: &'a str,
}

impl fmt::Display for Client<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user;
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": user } }],
            "clusters": [{ "name": "test", "cluster": {
                "server": self.server,
                "certificate-authority": self.authority,
            } }],
            "users": [{ "name": user, "user": { "token": self.token } }],
        });
        config.fmt(f)
    }
}

/// Writes a new file that only its owner may read.
pub(super) fn secret(path: &Path, text: &str) -> Result<()> {
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}

/// 128 random bits in hexadecimal digits.
pub(super) fn token() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
