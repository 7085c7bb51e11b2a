//! Identifiers that are the same wherever a disk is built.
//!
//! Disk and partition GUIDs, file system UUIDs, hash seeds and volume ids are
//! all SHA-256 over the image's identity, the options that shape the disk and
//! what the identifier is for. No clock and no randomness is involved.

use bootwright_image::Digest;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Derives identifiers for one disk.
#[derive(Debug, Clone)]
pub struct Ids {
    seed: Sha256,
}

impl Ids {
    /// Identifiers for the disk made from the image called `identity` with
    /// options that read `options` in some canonical text.
    pub fn new(identity: &Digest, options: &str) -> Self {
        let mut seed = Sha256::new();
        for part in ["bootwright disk 1", &identity.to_string(), options] {
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
    fn identifiers_follow_from_image_options_and_purpose_alone() {
        let a = Digest::sha256(b"a");
        let ids = Ids::new(&a, "size=1");
        assert_eq!(ids.uuid("disk"), Ids::new(&a, "size=1").uuid("disk"));
        assert_ne!(ids.uuid("disk"), ids.uuid("root"));
        assert_ne!(ids.uuid("disk"), Ids::new(&a, "size=2").uuid("disk"));
        let other = Ids::new(&Digest::sha256(b"b"), "size=1");
        assert_ne!(ids.uuid("disk"), other.uuid("disk"));
        assert_eq!(ids.uuid("disk").get_version_num(), 8);
    }
}
