//! Partition types: those that disks of ours use and those worth naming in
//! disks of others.
//!
//! The values are those of UAPI.2, the Discoverable Partitions Specification,
//! and of UEFI; [`BIOS_BOOT`] is GRUB's.

use uuid::{Uuid, uuid};

/// The EFI system partition (UEFI 2.10, clause 13.3).
pub const ESP: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
/// The extended boot loader partition, `/boot` (UAPI.1, UAPI.2).
pub const XBOOTLDR: Uuid = uuid!("bc13c2ff-59e6-4262-a352-b275fd6f7172");
/// Where GRUB keeps its core image on a GPT disk that a legacy BIOS boots.
pub const BIOS_BOOT: Uuid = uuid!("21686148-6449-6e6f-744e-656564454649");
/// A Linux file system with no purpose that UAPI.2 knows.
pub const LINUX_GENERIC: Uuid = uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4");
/// Swap space.
pub const SWAP: Uuid = uuid!("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f");
/// `/home`.
pub const HOME: Uuid = uuid!("933ac7e1-2eb4-4f13-b844-0e14e2aef915");
/// `/srv`.
pub const SRV: Uuid = uuid!("3b8f8425-20e0-4f3b-907f-1a25a76f98e8");
/// `/var`, found only if its GUID derives from the machine id.
pub const VAR: Uuid = uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d");

/// The types of an architecture's root partitions (UAPI.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootTypes {
    /// The architecture as OCI images name it (Go's `GOARCH`).
    pub architecture: &'static str,
    /// The root file system.
    pub root: Uuid,
    /// dm-verity hashes of the root file system.
    pub verity: Uuid,
    /// The signature of the root hash.
    pub verity_signature: Uuid,
}

/// The architectures that bootable images exist for, by name.
pub const ROOT_TYPES: [RootTypes; 8] = [
    RootTypes {
        architecture: "386",
        root: uuid!("44479540-f297-41b2-9af7-d131d5f0458a"),
        verity: uuid!("d13c5d3b-b5d1-422a-b29f-9454fdc89d76"),
        verity_signature: uuid!("5996fc05-109c-48de-808b-23fa0830b676"),
    },
    RootTypes {
        architecture: "amd64",
        root: uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
        verity: uuid!("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
        verity_signature: uuid!("41092b05-9fc8-4523-994f-2def0408b176"),
    },
    RootTypes {
        architecture: "arm",
        root: uuid!("69dad710-2ce4-4e3c-b16c-21a1d49abed3"),
        verity: uuid!("7386cdf2-203c-47a9-a498-f2ecce45a2d6"),
        verity_signature: uuid!("42b0455f-eb11-491d-98d3-56145ba9d037"),
    },
    RootTypes {
        architecture: "arm64",
        root: uuid!("b921b045-1df0-41c3-af44-4c6f280d3fae"),
        verity: uuid!("df3300ce-d69f-4c92-978c-9bfb0f38d820"),
        verity_signature: uuid!("6db69de6-29f4-4758-a7a5-962190f00ce3"),
    },
    RootTypes {
        architecture: "loong64",
        root: uuid!("77055800-792c-4f94-b39a-98c91b762bb6"),
        verity: uuid!("f3393b22-e9af-4613-a948-9d3bfbd0c535"),
        verity_signature: uuid!("5afb67eb-ecc8-4f85-ae8e-ac1e7c50e7d0"),
    },
    RootTypes {
        architecture: "ppc64le",
        root: uuid!("c31c45e6-3f39-412e-80fb-4809c4980599"),
        verity: uuid!("906bd944-4589-4aae-a4e4-dd983917446a"),
        verity_signature: uuid!("d4a236e7-e873-4c07-bf1d-bf6cf7f1c3c6"),
    },
    RootTypes {
        architecture: "riscv64",
        root: uuid!("72ec70a6-cf74-40e6-bd49-4bda08e8f224"),
        verity: uuid!("b6ed5582-440b-4209-b8da-5ff7c419ea3d"),
        verity_signature: uuid!("efe0f087-ea8d-4469-821a-4c2a96a8386a"),
    },
    RootTypes {
        architecture: "s390x",
        root: uuid!("5eead9a9-fe09-4a1e-a1d7-520d00531306"),
        verity: uuid!("b325bfbe-c7be-4ab8-8357-139e652d2f6b"),
        verity_signature: uuid!("c80187a5-73a3-491a-901a-017c3fa953e9"),
    },
];

/// The root partition types of an architecture that an OCI image names, such
/// as `amd64`.
pub fn root_types(architecture: &str) -> Option<RootTypes> {
    ROOT_TYPES
        .into_iter()
        .find(|types| types.architecture == architecture)
}

/// What partitions of a type are for, in a few words; for people.
pub fn describe(type_guid: Uuid) -> Option<String> {
    const OTHERS: [(Uuid, &str); 8] = [
        (ESP, "EFI system partition"),
        (XBOOTLDR, "extended boot loader partition"),
        (BIOS_BOOT, "BIOS boot partition"),
        (LINUX_GENERIC, "Linux file system"),
        (SWAP, "swap"),
        (HOME, "home"),
        (SRV, "srv"),
        (VAR, "var"),
    ];
    if let Some((_, name)) = OTHERS.iter().find(|(guid, _)| *guid == type_guid) {
        return Some((*name).to_owned());
    }
    ROOT_TYPES.iter().find_map(|types| {
        let what = match type_guid {
            guid if guid == types.root => "root",
            guid if guid == types.verity => "root verity",
            guid if guid == types.verity_signature => "root verity signature",
            _ => return None,
        };
        Some(format!("{what} ({})", types.architecture))
    })
}
