//! From an image to a disk plan.
//!
//! Layers are merged into a [`tree::Tree`], customised, formatted as ext4 and
//! (the boot partition) FAT32, and laid out on a GPT disk as a
//! [`bootwright_disk::Plan`]. Only small files (os-release, kernel arguments)
//! are read on the way; contents stay where they are.

pub mod assemble;
pub mod boot;
pub mod customize;
pub mod ext4;
pub mod fat;
pub mod identity;
pub mod iso;
pub mod place;
pub mod tree;
pub mod volume;
