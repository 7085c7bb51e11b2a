//! Paths in archives.

/// Longest path in bytes, as PATH_MAX less its NUL: what a runtime could
/// create.
const MAX_PATH: usize = 4095;
/// Longest name in bytes (NAME_MAX).
const MAX_COMPONENT: usize = 255;

/// Brings a path into the form of [`crate::layer::Entry::path`]: no leading or
/// trailing slash, no empty or `.` component.
///
/// # Errors
/// What is wrong: a `..` component, a NUL, a name of over 255 bytes, or over
/// 4095 bytes in all.
pub fn normalise(path: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    out.clear();
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" | b"." => continue,
            b".." => return Err("its path has a `..` component"),
            _ if name.len() > MAX_COMPONENT => {
                return Err("its path has a name of more than 255 bytes");
            }
            _ if name.contains(&0) => return Err("its path has a NUL byte"),
            _ => {}
        }
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(name);
        if out.len() > MAX_PATH {
            return Err("its path has more than 4095 bytes");
        }
    }
    Ok(())
}

/// Whether the path is in the form that [`normalise`] gives.
pub(crate) fn is_normal(path: &[u8]) -> bool {
    path.is_empty()
        || path.len() <= MAX_PATH
            && path.split(|&b| b == b'/').all(|name| {
                !matches!(name, b"" | b"." | b"..")
                    && name.len() <= MAX_COMPONENT
                    && !name.contains(&0)
            })
}
