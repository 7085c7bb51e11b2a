//! Passwords for shadow(5).

use bootwright_image::digest::Digest;
use sha_crypt::{PasswordHasher as _, ShaCrypt};

/// Longer ones are a mistake, and SHA-crypt needs time that grows with the
/// square of the length.
const MAX_LEN: usize = 512;

/// A password as the user gave it.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// The password itself.
    Plain(String),
    /// A hash as in crypt(5), taken as it is.
    Hash(String),
}

/// A text that is no password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PasswordError {
    /// An empty password would let everybody in.
    #[error("the password file is empty")]
    Empty,
    /// A password is one line.
    #[error("the password file has more than one line")]
    SeveralLines,
    /// It is too long, or not text.
    #[error("the password must be UTF-8 without control characters, of at most {MAX_LEN} bytes")]
    NotText,
    /// It begins as a hash but is none.
    #[error("the password begins like a crypt(5) hash but is none: a colon or space is in it")]
    BadHash,
    /// SHA-crypt refused it.
    #[error("cannot hash the password: {0}")]
    Hash(String),
}

impl Password {
    /// The content of a password file: one line, the password or its hash
    /// (`$6$…`, `$y$…` and others of crypt(5)).
    ///
    /// # Errors
    /// It is empty, has several lines, or is no text.
    pub fn parse(content: &[u8]) -> Result<Self, PasswordError> {
        let line = content.strip_suffix(b"\n").unwrap_or(content);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(PasswordError::Empty);
        }
        if line.contains(&b'\n') {
            return Err(PasswordError::SeveralLines);
        }
        let text = str::from_utf8(line).map_err(|_| PasswordError::NotText)?;
        if text.len() > MAX_LEN || text.chars().any(char::is_control) {
            return Err(PasswordError::NotText);
        }
        if !is_hash(text) {
            return Ok(Self::Plain(text.to_owned()));
        }
        // crypt(5): the characters that no hash may have.
        if text
            .bytes()
            .any(|b| !b.is_ascii_graphic() || b":;*!\\".contains(&b))
        {
            return Err(PasswordError::BadHash);
        }
        Ok(Self::Hash(text.to_owned()))
    }

    /// The password as it stands in shadow(5).
    ///
    /// A plain one becomes SHA-512 crypt with a salt of `identity` and the
    /// user's name, so that the same build gives the same bytes. The password
    /// does not go into the salt: the salt is public, and would tell whether a
    /// guess is right without the 5,000 rounds.
    pub(super) fn hash(&self, identity: &[u8], user: &str) -> Result<String, PasswordError> {
        let plain = match self {
            Self::Hash(hash) => return Ok(hash.clone()),
            Self::Plain(plain) => plain,
        };
        let seed = [
            b"bootwright password salt\0",
            identity,
            b"\0",
            user.as_bytes(),
        ]
        .concat();
        let digest = Digest::sha256(&seed);
        // 12 characters become 16 of crypt's, the longest salt.
        let salt = digest.short().as_bytes();
        ShaCrypt::SHA512
            .hash_password_with_salt(plain.as_bytes(), salt)
            .map(|hash| hash.to_string())
            .map_err(|e| PasswordError::Hash(e.to_string()))
    }
}

/// `$id$…`, as all of crypt(5) but the weakest ones begin.
fn is_hash(text: &str) -> bool {
    text.strip_prefix('$')
        .and_then(|rest| rest.split_once('$'))
        .is_some_and(|(id, rest)| {
            matches!(
                id,
                "1" | "2a" | "2b" | "2y" | "5" | "6" | "7" | "y" | "gy" | "sha1"
            ) && rest.len() > 8
        })
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(…)",
            Self::Hash(_) => "Hash(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_hash_is_taken_as_it_is_and_a_plain_one_is_what_openssl_computes() {
        let hash = "$6$abcdefgh$0123456789";
        let parsed = Password::parse(format!("{hash}\n").as_bytes()).unwrap();
        assert_eq!(parsed, Password::Hash(hash.into()));
        assert_eq!(parsed.hash(b"i", "root").unwrap(), hash);

        for plain in ["secret", "pässword with spaces", "$6$", "$dollar$"] {
            let parsed = Password::parse(plain.as_bytes()).unwrap();
            assert_eq!(parsed, Password::Plain(plain.into()));
            let ours = parsed.hash(b"sha256:1", "root").unwrap();
            // "$6$rounds=5000$salt$hash": all before the hash is the setting.
            let salt = ours
                .rsplit_once('$')
                .unwrap()
                .0
                .strip_prefix("$6$")
                .unwrap();
            let out = Command::new("openssl")
                .args(["passwd", "-6", "-salt", salt, plain])
                .output()
                .expect("openssl is needed for this test");
            assert_eq!(ours, String::from_utf8(out.stdout).unwrap().trim());
            assert_ne!(ours, parsed.hash(b"sha256:2", "root").unwrap());
        }
    }

    #[test]
    fn what_is_no_password_is_refused() {
        for (text, error) in [
            (&b""[..], PasswordError::Empty),
            (b"\n", PasswordError::Empty),
            (b"a\nb\n", PasswordError::SeveralLines),
            (b"\xff", PasswordError::NotText),
            (b"a\0b", PasswordError::NotText),
            (&[b'x'; 513], PasswordError::NotText),
            (b"$6$abc$defgh:ijk", PasswordError::BadHash),
        ] {
            assert_eq!(Password::parse(text), Err(error));
        }
    }

    #[test]
    fn no_message_shows_a_password() {
        let text = format!("{:?}", Password::Plain("secret".into()));
        assert!(!text.contains("secret"));
    }
}
