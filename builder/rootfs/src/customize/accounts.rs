//! Accounts: passwd(5), group(5), shadow(5), gshadow(5), subuid(5).
//!
//! Files are edited line by line; what is not understood stays as it is.
//! Images that keep their own accounts below /usr/lib (as ostree ones do) are
//! looked at too, but changes go to /etc.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::CustomizeError;
use super::editor::{EditError, Editor, lines, whole_lines};
use crate::tree::{FileContent, Inode, InodeId, Kind};

/// Where accounts and groups of the image may be, the first counts.
const PASSWD: [&str; 2] = ["etc/passwd", "usr/lib/passwd"];
const GROUP: [&str; 2] = ["etc/group", "usr/lib/group"];

/// Ids of people, as UID_MIN and UID_MAX of login.defs(5).
const PEOPLE: std::ops::RangeInclusive<u32> = 1000..=59_999;

/// As SUB_UID_MIN and SUB_UID_COUNT of login.defs(5).
const FIRST_SUBORDINATE: u64 = 100_000;
const SUBORDINATES: u64 = 65_536;

/// The most that is copied from /etc/skel, in files.
const MAX_SKELETON: usize = 10_000;

/// An account to make: `NAME[:UID]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    name: String,
    uid: Option<u32>,
}

/// A text that is no `NAME[:UID]`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    /// As useradd(8) wants names.
    #[error(
        "{0:?} is no user name: lower-case letters, digits, - and _, \
         not beginning with a digit or -, at most 32"
    )]
    Name(String),
    /// Not a number that a user can have.
    #[error("{0:?} is no user id: 1 to 4294967294, not 65535")]
    Uid(String),
}

impl User {
    /// The account's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user id that was asked for.
    pub fn uid(&self) -> Option<u32> {
        self.uid
    }
}

impl FromStr for User {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        let (name, uid) = match text.split_once(':') {
            Some((name, uid)) => (name, Some(uid)),
            None => (text, None),
        };
        let letter = |b: u8| b.is_ascii_lowercase() || b == b'_';
        let first = name.bytes().next().is_some_and(letter);
        let rest = name
            .bytes()
            .all(|b| letter(b) || b.is_ascii_digit() || b == b'-');
        if !first || !rest || name.len() > 32 {
            return Err(UserError::Name(name.to_owned()));
        }
        let bad_uid = |uid: &str| UserError::Uid(uid.to_owned());
        let uid = uid
            .map(|uid| uid.parse::<u32>().map_err(|_| bad_uid(uid)))
            .transpose()?;
        // 65535 and 4294967295 stand for "none" in system calls.
        if let Some(uid @ (0 | 65_535 | u32::MAX)) = uid {
            return Err(bad_uid(&uid.to_string()));
        }
        Ok(Self {
            name: name.to_owned(),
            uid,
        })
    }
}

/// What passwd(5) says of an account.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: String,
}

/// The account `name`; root is there even where passwd(5) is not.
pub(super) fn find(editor: &Editor<'_>, name: &str) -> Result<Account, CustomizeError> {
    for path in PASSWD {
        let text = editor.read(path)?.unwrap_or_default();
        if let Some(account) = account(&text, name) {
            return Ok(account);
        }
    }
    if name == "root" {
        let home = "/root".into();
        let (uid, gid) = (0, 0);
        return Ok(Account { uid, gid, home });
    }
    Err(CustomizeError::User {
        name: name.to_owned(),
        problem: "there is no such user in the image".into(),
    })
}

fn account(passwd: &[u8], name: &str) -> Option<Account> {
    let mut fields = line_of(passwd, name)?.split(|&b| b == b':').skip(2);
    let uid = number(fields.next()?)?;
    let gid = number(fields.next()?)?;
    let home = String::from_utf8(fields.nth(1)?.to_vec()).ok()?;
    Some(Account { uid, gid, home })
}

/// Makes the account, with a group of its own, a home from /etc/skel, and the
/// right to become root without a password where the image has sudo: nobody
/// could type one, as the account has none.
pub(super) fn add(editor: &mut Editor<'_>, user: &User) -> Result<(), CustomizeError> {
    let fail = |problem: String| CustomizeError::User {
        name: user.name.clone(),
        problem,
    };
    let name = &user.name;
    let passwd = read_all(editor, PASSWD)?;
    let group = read_all(editor, GROUP)?;
    if let Some(account) = account(&passwd, name) {
        // The image's own; keys may still be given to it.
        return match user.uid {
            Some(uid) if uid != account.uid => Err(fail(format!(
                "the image has that user already, with id {}",
                account.uid
            ))),
            _ => Ok(()),
        };
    }
    let uids = ids(&passwd);
    let gids = ids(&group);
    let uid = match user.uid {
        Some(uid) if uids.contains(&uid) => {
            return Err(fail(format!("id {uid} belongs to another user")));
        }
        Some(uid) => uid,
        None => PEOPLE
            .into_iter()
            .find(|id| !uids.contains(id) && !gids.contains(id))
            .ok_or_else(|| fail("all ids from 1000 to 59999 are taken".into()))?,
    };
    let gid = match line_of(&group, name) {
        Some(line) => line
            .split(|&b| b == b':')
            .nth(2)
            .and_then(number)
            .ok_or_else(|| fail("the group of that name has no id".into()))?,
        None => {
            let gid = std::iter::once(uid)
                .chain(PEOPLE)
                .find(|id| !gids.contains(id))
                .ok_or_else(|| fail("all group ids from 1000 to 59999 are taken".into()))?;
            append(editor, "etc/group", &format!("{name}:x:{gid}:"), 0o644)?;
            append_if_there(editor, "etc/gshadow", &format!("{name}:!::"))?;
            gid
        }
    };
    let shell = match editor.exists("bin/bash") {
        true => "/bin/bash",
        false => "/bin/sh",
    };
    // No password matches "*". A "!" would lock the account, and sshd without
    // PAM lets no locked account in, whatever its key.
    let has_shadow = editor.file("etc/shadow")?.is_some();
    let password = if has_shadow { "x" } else { "*" };
    let home = format!("/home/{name}");
    let line = format!("{name}:{password}:{uid}:{gid}::{home}:{shell}");
    append(editor, "etc/passwd", &line, 0o644)?;
    let days = editor.days();
    append_if_there(
        editor,
        "etc/shadow",
        &format!("{name}:*:{days}:0:99999:7:::"),
    )?;
    for path in ["etc/subuid", "etc/subgid"] {
        add_subordinates(editor, path, name)?;
    }
    make_home(editor, &home, uid, gid)?;
    allow_sudo(editor, name, &group)
}

/// Makes a member of `sudo` or `wheel`, and allows sudo without a password.
fn allow_sudo(editor: &mut Editor<'_>, user: &str, group: &[u8]) -> Result<(), CustomizeError> {
    if let Some(name) = ["sudo", "wheel"]
        .into_iter()
        .find(|name| line_of(group, name).is_some())
    {
        let mut etc = editor.read(GROUP[0])?.unwrap_or_default();
        // A group below /usr/lib takes members in /etc only.
        if line_of(&etc, name).is_none()
            && let Some(line) = line_of(group, name)
        {
            etc = whole_lines(etc);
            etc.extend_from_slice(line);
            etc.push(b'\n');
        }
        editor.write(GROUP[0], add_member(&etc, name, user), 0o644)?;
        if let Some(gshadow) = editor.read("etc/gshadow")? {
            editor.write("etc/gshadow", add_member(&gshadow, name, user), 0o600)?;
        }
    }
    if editor.exists("etc/sudoers.d") {
        let path = format!("etc/sudoers.d/90-bootwright-{user}");
        let text = format!("{user} ALL=(ALL) NOPASSWD:ALL\n");
        editor.write(&path, text, 0o440)?;
    }
    Ok(())
}

/// The home directory and what /etc/skel has for it. One that is there
/// already stays as it is.
fn make_home(editor: &mut Editor<'_>, path: &str, uid: u32, gid: u32) -> Result<(), EditError> {
    editor.directory(b"home")?;
    if editor.named(path).is_some() {
        return Ok(());
    }
    let own = |inode: Inode| Inode { uid, gid, ..inode };
    let template = own(Inode::directory(0o700, editor.time));
    let home = editor.tree.make_directories(path.as_bytes(), &template)?;
    let Ok(skel) = editor.tree.resolve(b"etc/skel") else {
        return Ok(());
    };
    let entries: Vec<(Vec<u8>, InodeId)> = editor
        .tree
        .walk_from(skel)
        .skip(1)
        .take(MAX_SKELETON)
        .collect();
    for (path, id) in entries {
        let inode = editor.tree.inode(id);
        let mode = inode.mode;
        let kind = match &inode.kind {
            Kind::Directory(_) => Kind::Directory(Default::default()),
            Kind::Symlink(target) => Kind::Symlink(target.clone()),
            // A copy of its own: two files cannot share blocks on the disk.
            Kind::Regular(_) => {
                let shown = format!("etc/skel/{}", String::from_utf8_lossy(&path));
                Kind::Regular(FileContent::literal(editor.read_inode(id, &shown)?))
            }
            _ => continue,
        };
        let copy = own(Inode {
            mtime: editor.time,
            ..Inode::new(kind, mode)
        });
        // Walked parents first, so each parent is there: names from `home` on.
        let (parent, name) = crate::tree::split(&path);
        let mut dir = home;
        for name in crate::tree::components(parent) {
            match editor.tree.child(dir, name) {
                Some(child) => dir = child,
                None => break,
            }
        }
        editor.tree.insert(dir, name, copy)?;
    }
    Ok(())
}

/// Gives root the password in shadow(5), or in passwd(5) where the image has
/// no shadow file.
pub(super) fn set_root_password(editor: &mut Editor<'_>, hash: &str) -> Result<(), EditError> {
    let passwd = editor.read("etc/passwd")?.unwrap_or_default();
    let days = editor.days();
    if let Some(shadow) = editor.read("etc/shadow")? {
        let text = match line_of(&shadow, "root") {
            Some(_) => edit(&shadow, "root", |fields| {
                set(fields, 1, hash);
                set(fields, 2, &days);
            }),
            None => {
                let mut text = whole_lines(shadow);
                text.extend_from_slice(format!("root:{hash}:{days}:0:99999:7:::\n").as_bytes());
                text
            }
        };
        editor.write("etc/shadow", text, 0o600)?;
        let text = edit(&passwd, "root", |fields| set(fields, 1, "x"));
        if text != passwd {
            editor.write("etc/passwd", text, 0o644)?;
        }
        return Ok(());
    }
    editor.write(
        "etc/shadow",
        format!("root:{hash}:{days}:0:99999:7:::\n"),
        0o600,
    )?;
    let text = match line_of(&passwd, "root") {
        Some(_) => edit(&passwd, "root", |fields| set(fields, 1, "x")),
        None => [&b"root:x:0:0:root:/root:/bin/sh\n"[..], &passwd].concat(),
    };
    editor.write("etc/passwd", text, 0o644)?;
    Ok(())
}

/// The user's range in subuid(5), after all others.
fn add_subordinates(editor: &mut Editor<'_>, path: &str, user: &str) -> Result<(), EditError> {
    let Some(text) = editor.read(path)? else {
        return Ok(());
    };
    let mut first = FIRST_SUBORDINATE;
    for line in lines(&text) {
        let mut fields = line.split(|&b| b == b':').skip(1);
        let mut next = || str::from_utf8(fields.next()?).ok()?.parse::<u64>().ok();
        if let (Some(start), Some(count)) = (next(), next()) {
            first = first.max(start.saturating_add(count));
        }
    }
    if first.saturating_add(SUBORDINATES) > u64::from(u32::MAX) || line_of(&text, user).is_some() {
        return Ok(());
    }
    append(
        editor,
        path,
        &format!("{user}:{first}:{SUBORDINATES}"),
        0o644,
    )
}

fn read_all(editor: &Editor<'_>, paths: [&str; 2]) -> Result<Vec<u8>, EditError> {
    let mut all = Vec::new();
    for path in paths {
        all = whole_lines(all);
        all.extend(editor.read(path)?.unwrap_or_default());
    }
    Ok(all)
}

fn append(editor: &mut Editor<'_>, path: &str, line: &str, mode: u16) -> Result<(), EditError> {
    let mut text = whole_lines(editor.read(path)?.unwrap_or_default());
    text.extend_from_slice(line.as_bytes());
    text.push(b'\n');
    editor.write(path, text, mode)?;
    Ok(())
}

fn append_if_there(editor: &mut Editor<'_>, path: &str, line: &str) -> Result<(), EditError> {
    match editor.file(path)? {
        Some(_) => append(editor, path, line, 0o600),
        None => Ok(()),
    }
}

/// The first line whose first field is `name`.
fn line_of<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    lines(text).find(|line| line.split(|&b| b == b':').next() == Some(name.as_bytes()))
}

/// The third fields: user or group ids.
fn ids(text: &[u8]) -> BTreeSet<u32> {
    lines(text)
        .filter_map(|line| number(line.split(|&b| b == b':').nth(2)?))
        .collect()
}

fn number(field: &[u8]) -> Option<u32> {
    str::from_utf8(field).ok()?.parse().ok()
}

/// The text with the fields of the first line of `name` changed.
fn edit(text: &[u8], name: &str, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut change = Some(change);
    let mut out = Vec::with_capacity(text.len() + 64);
    for line in lines(text) {
        let mut fields: Vec<Vec<u8>> = line.split(|&b| b == b':').map(<[u8]>::to_vec).collect();
        if fields.first().is_some_and(|f| f == name.as_bytes())
            && let Some(change) = change.take()
        {
            change(&mut fields);
        }
        out.extend_from_slice(&fields.join(&b':'));
        out.push(b'\n');
    }
    out
}

fn set(fields: &mut Vec<Vec<u8>>, at: usize, value: &str) {
    if fields.len() <= at {
        fields.resize(at + 1, Vec::new());
    }
    fields[at] = value.into();
}

/// Adds to the fourth field, a list with commas, of the group `name`.
fn add_member(text: &[u8], name: &str, member: &str) -> Vec<u8> {
    edit(text, name, |fields| {
        let list = fields.get(3).map_or(&[][..], Vec::as_slice);
        let mut members: Vec<&[u8]> = list
            .split(|&b| b == b',')
            .filter(|m| !m.is_empty())
            .collect();
        if !members.contains(&member.as_bytes()) {
            members.push(member.as_bytes());
        }
        let list = String::from_utf8_lossy(&members.join(&b',')).into_owned();
        set(fields, 3, &list);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_with_an_id_that_users_can_have() {
        for (text, name, uid) in [
            ("bob", "bob", None),
            ("_b-0:1000", "_b-0", Some(1000)),
            ("b:4294967294", "b", Some(4_294_967_294)),
        ] {
            let user: User = text.parse().unwrap();
            assert_eq!((user.name(), user.uid()), (name, uid));
        }
        let long = "x".repeat(33);
        for text in [
            "", "Bob", "1b", "-b", "b b", "b.c", "../b", "b\n", &long, ":5",
        ] {
            assert!(matches!(text.parse::<User>(), Err(UserError::Name(_))));
        }
        for text in [
            "b:",
            "b:x",
            "b:-1",
            "b:0",
            "b:65535",
            "b:4294967295",
            "b:1:2",
        ] {
            assert!(matches!(text.parse::<User>(), Err(UserError::Uid(_))));
        }
    }

    #[test]
    fn members_are_added_once_to_the_first_line_of_a_group() {
        let text = b"root:x:0:\nsudo:x:27:alice\n#odd\nsudo:x:28:";
        assert_eq!(
            add_member(text, "sudo", "bob"),
            b"root:x:0:\nsudo:x:27:alice,bob\n#odd\nsudo:x:28:\n"
        );
        assert_eq!(add_member(b"a:x:1:bob", "a", "bob"), b"a:x:1:bob\n");
        assert_eq!(add_member(b"a", "a", "bob"), b"a:::bob\n");
    }
}
