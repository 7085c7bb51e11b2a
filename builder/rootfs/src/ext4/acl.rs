//! POSIX access control lists: from the form that system calls and archives
//! use (version 2) to ext4's own (version 1).
//!
//! Version 2 is `linux/posix_acl_xattr.h`; version 1 is `fs/ext4/acl.h` of the
//! kernel. e2fsck accepts anything here, so the list is checked as the kernel
//! checks one that is set.

/// Why a list is no POSIX ACL.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum AclError {
    /// Neither of the known version, nor of a length that it can have.
    #[error("not a version 2 list")]
    BadForm,
    /// An entry with an unknown tag or with permissions beyond rwx.
    #[error("an entry has an unknown tag or permission")]
    BadEntry,
    /// Owner, group and others are not all there once, or the entries are not
    /// in order.
    #[error("entries are missing, repeated or out of order")]
    BadOrder,
    /// Entries for named users or groups need a mask.
    #[error("entries for named users or groups need a mask")]
    NoMask,
}

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The list in ext4's form; `None` for a list without entries, which stands
/// for no list at all.
pub(super) fn to_ext4(value: &[u8]) -> Result<Option<Vec<u8>>, AclError> {
    let Some((version, entries)) = value.split_first_chunk::<4>() else {
        return Err(AclError::BadForm);
    };
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return Err(AclError::BadForm);
    }
    if entries.is_empty() {
        return Ok(None);
    }
    let mut out = Vec::with_capacity(value.len());
    out.extend_from_slice(&1u32.to_le_bytes());
    let mut seen = 0;
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        let named = matches!(tag, USER | GROUP);
        if !named && !matches!(tag, USER_OBJ | GROUP_OBJ | MASK | OTHER) || permissions > 7 {
            return Err(AclError::BadEntry);
        }
        // Tags rise; only named ones repeat.
        if tag < seen || (tag == seen && !named) {
            return Err(AclError::BadOrder);
        }
        seen = tag;
        out.extend_from_slice(&entry[..4]);
        if named {
            out.extend_from_slice(&entry[4..]);
        }
    }
    let has = |tag: u16| entries.chunks_exact(8).any(|e| e[..2] == tag.to_le_bytes());
    if ![USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(has) {
        return Err(AclError::BadOrder);
    }
    if (has(USER) || has(GROUP)) && !has(MASK) {
        return Err(AclError::NoMask);
    }
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&permissions.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    const NOBODY: u32 = !0;

    #[test]
    fn named_entries_keep_their_id_and_others_lose_it() {
        let acl = list(&[
            (USER_OBJ, 7, NOBODY),
            (USER, 6, 1000),
            (USER, 4, 1001),
            (GROUP_OBJ, 5, NOBODY),
            (MASK, 5, NOBODY),
            (OTHER, 0, NOBODY),
        ]);
        let want = [
            1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 6, 0, 0xe8, 3, 0, 0, 2, 0, 4, 0, 0xe9, 3, 0, 0, 4, 0, 5,
            0, 16, 0, 5, 0, 32, 0, 0, 0,
        ];
        assert_eq!(to_ext4(&acl), Ok(Some(want.to_vec())));
        assert_eq!(to_ext4(&list(&[])), Ok(None));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused() {
        let o = (USER_OBJ, 7, NOBODY);
        let g = (GROUP_OBJ, 5, NOBODY);
        let r = (OTHER, 0, NOBODY);
        let cases = [
            (Vec::new(), AclError::BadForm),
            (vec![1, 0, 0, 0], AclError::BadForm),
            (list(&[o, g, r])[..27].to_vec(), AclError::BadForm),
            (list(&[o, g, (3, 0, 0)]), AclError::BadEntry),
            (list(&[(USER_OBJ, 8, 0), g, r]), AclError::BadEntry),
            (list(&[o, g]), AclError::BadOrder),
            (list(&[g, o, r]), AclError::BadOrder),
            (list(&[o, g, r, r]), AclError::BadOrder),
            (list(&[o, (USER, 7, 1), g, r]), AclError::NoMask),
        ];
        for (value, want) in cases {
            assert_eq!(to_ext4(&value), Err(want), "{value:?}");
        }
    }
}
