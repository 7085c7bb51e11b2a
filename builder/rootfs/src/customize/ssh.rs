//! Keys that may log in: authorized_keys of sshd(8).

use std::collections::BTreeSet;

use base64ct::{Base64, Encoding as _};

use super::CustomizeError;
use super::accounts;
use super::editor::{Editor, lines, whole_lines};
use crate::tree::Inode;

/// Key types of ssh-keygen(1) and their certificates.
const TYPES: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-ed25519-cert-v01@openssh.com",
    "ssh-rsa-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "sk-ssh-ed25519-cert-v01@openssh.com",
    "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
];

/// One line of an authorized_keys file: options, type, key, comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizedKey {
    line: String,
    /// The key in base64; what makes two lines the same key.
    key: String,
}

/// A line that is no public key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// The other half of a key pair.
    #[error("this is a private key; give the public one (….pub)")]
    Private,
    /// No line has a key.
    #[error("there is no key in it")]
    NoKey,
    /// A line without a known key type.
    #[error("line {0}: not a public key of OpenSSH (ssh-ed25519, ssh-rsa, ecdsa-sha2-…, sk-…)")]
    UnknownType(usize),
    /// A key that is cut or of another type than it says.
    #[error("line {0}: the key is damaged: it is not base64 of a key of its type")]
    Damaged(usize),
}

/// The keys in a `.pub` or authorized_keys file; empty lines and comments are
/// left out.
///
/// # Errors
/// A line is no public key, or there is none.
pub fn parse_keys(content: &[u8]) -> Result<Vec<AuthorizedKey>, KeyError> {
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(lines(content)) {
        let line = line.trim_ascii();
        if line.starts_with(b"-----BEGIN") {
            return Err(KeyError::Private);
        }
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let line = str::from_utf8(line).map_err(|_| KeyError::UnknownType(number))?;
        keys.push(parse_line(line, number)?);
    }
    if keys.is_empty() {
        return Err(KeyError::NoKey);
    }
    Ok(keys)
}

fn parse_line(line: &str, number: usize) -> Result<AuthorizedKey, KeyError> {
    let words = words(line);
    // Options, if any, are one word before the type.
    let at = words
        .iter()
        .take(2)
        .position(|word| TYPES.contains(word))
        .ok_or(KeyError::UnknownType(number))?;
    let key = words.get(at + 1).ok_or(KeyError::Damaged(number))?;
    let blob = Base64::decode_vec(key).map_err(|_| KeyError::Damaged(number))?;
    // RFC 4253, section 6.6: the key begins with its type as a string, which
    // is its length in four bytes and its bytes.
    let name = words[at].as_bytes();
    let head = [&(name.len() as u32).to_be_bytes(), name].concat();
    if !blob.starts_with(&head) || blob.len() < head.len() + 32 {
        return Err(KeyError::Damaged(number));
    }
    Ok(AuthorizedKey {
        line: line.to_owned(),
        key: (*key).to_owned(),
    })
}

/// The first words of a line; spaces in double quotes, as in the option
/// `command="…"`, part none.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in line.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\t' if !quoted => {
                if start < at {
                    words.push(&line[start..at]);
                }
                start = at + 1;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        if words.len() == 3 {
            return words;
        }
    }
    if start < line.len() {
        words.push(&line[start..]);
    }
    words
}

/// Adds the keys to the user's ~/.ssh/authorized_keys, in the modes that
/// sshd's StrictModes asks for.
pub(super) fn authorize(
    editor: &mut Editor<'_>,
    user: &str,
    keys: &[AuthorizedKey],
) -> Result<(), CustomizeError> {
    let account = accounts::find(editor, user)?;
    let home = account.home.trim_matches('/').to_owned();
    if let Some((parent, _)) = home.rsplit_once('/') {
        editor.directory(parent.as_bytes())?;
    }
    let private = Inode {
        uid: account.uid,
        gid: account.gid,
        ..Inode::directory(0o700, editor.time)
    };
    let path = format!("{home}/.ssh");
    editor
        .tree
        .make_directories(path.as_bytes(), &private)
        .map_err(super::EditError::from)?;
    let path = format!("{path}/authorized_keys");
    let old = editor.read(&path)?.unwrap_or_default();
    let known: BTreeSet<String> = lines(&old)
        .enumerate()
        .filter_map(|(n, line)| parse_line(str::from_utf8(line).ok()?.trim(), n).ok())
        .map(|key| key.key)
        .collect();
    let is_new = editor.file(&path)?.is_none();
    let mut text = whole_lines(old);
    let mut added = BTreeSet::new();
    for key in keys {
        if !known.contains(&key.key) && added.insert(&key.key) {
            text.extend_from_slice(key.line.as_bytes());
            text.push(b'\n');
        }
    }
    let id = editor.write(&path, text, 0o600)?;
    if is_new {
        let inode = editor.tree.inode_mut(id);
        inode.uid = account.uid;
        inode.gid = account.gid;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGRvIG5vdCB1c2UgdGhpcyBrZXksIGl0IGlzIGEgdGVz";

    #[test]
    fn lines_with_options_and_comments_are_keys() {
        let file = format!(
            "# mine\r\n\n{ED25519} me@home with words\r\n\
             command=\"echo \\\"a b\\\" c\",no-pty {ED25519}\n  {ED25519}"
        );
        let keys = parse_keys(file.as_bytes()).unwrap();
        assert_eq!(keys.len(), 3);
        assert_eq!(keys[0].line, format!("{ED25519} me@home with words"));
        assert!(keys[1].line.starts_with("command="));
        assert!(keys.iter().all(|k| k.key == keys[0].key));
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        let cut = &ED25519[..40];
        let other_type = ED25519.replace("ssh-ed25519", "ssh-rsa");
        for (file, error) in [
            ("", KeyError::NoKey),
            ("# only this\n", KeyError::NoKey),
            (
                "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n",
                KeyError::Private,
            ),
            ("hello\n", KeyError::UnknownType(1)),
            ("ssh-dss AAAAB3NzaC1kc3MA\n", KeyError::UnknownType(1)),
            ("\nssh-ed25519\n", KeyError::Damaged(2)),
            (cut, KeyError::Damaged(1)),
            (&other_type, KeyError::Damaged(1)),
        ] {
            assert_eq!(parse_keys(file.as_bytes()), Err(error), "{file}");
        }
    }
}
