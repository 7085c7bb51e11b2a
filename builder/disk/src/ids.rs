//! Identifiers that are the same wherever a disk is made.
//!
//! Disk and partition GUIDs, file system UUIDs, hash seeds and volume ids are
//! SHA-256 over what the disk is made of and what the identifier is for. No
//! clock and no randomness is involved.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Derives identifiers for one disk.
#[derive(Debug, Clone)]
pub struct Ids {
    seed: Sha256,
}

impl Ids {
    /// Identifiers that follow from `parts` in this order: a name for what
    /// is identified, then what it is made of.
    pub fn new<const N: usize>(parts: [&[u8]; N]) -> Self {
        let mut seed = Sha256::new();
        for part in parts {
            seed.update((part.len() as u64).to_le_bytes());
            seed.update(part);
        }
        Self { seed }
    }

    fn bytes(&self, purpose: &str) -> [u8; 32] {
        let mut hash = self.seed.clone();
        hash.update(purpose);
        hash.finalize().into()
    }

    /// A UUID (version 8, RFC 9562 section 5.8).
    pub fn uuid(&self, purpose: &str) -> Uuid {
        let bytes = self.bytes(purpose);
        let mut first = [0; 16];
        first.copy_from_slice(&bytes[..16]);
        uuid::Builder::from_custom_bytes(first).into_uuid()
    }

    /// A 32-bit number.
    pub fn number(&self, purpose: &str) -> u32 {
        let bytes = self.bytes(purpose);
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_from_parts_and_purpose_alone() {
        let of = |a: &str, b: &str| Ids::new([a.as_bytes(), b.as_bytes()]);
        let ids = of("image", "size=1");
        assert_eq!(ids.uuid("disk"), of("image", "size=1").uuid("disk"));
        assert_ne!(ids.uuid("disk"), ids.uuid("root"));
        assert_ne!(ids.uuid("disk"), of("image", "size=2").uuid("disk"));
        assert_ne!(ids.uuid("disk"), of("other", "size=1").uuid("disk"));
        assert_ne!(ids.number("disk"), ids.number("root"));
        // Where one part ends and the next begins matters, too.
        assert_ne!(of("ab", "c").uuid("disk"), of("a", "bc").uuid("disk"));
        assert_eq!(ids.uuid("disk").get_version_num(), 8);
    }
}
