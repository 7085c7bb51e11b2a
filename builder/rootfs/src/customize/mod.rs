//! What the user adds to an image: names, accounts, keys and files.
//!
//! A [`Customization`] goes in and the tree is changed, as an administrator
//! would with an editor; nothing of the image is run. Everything changed gets
//! one fixed time, so the same image and options give the same tree.

mod accounts;
mod editor;
mod files;
mod password;
mod ssh;
mod system;

use bootwright_image::Timestamp;

use crate::tree::Tree;
pub use accounts::{User, UserError};
pub use editor::EditError;
pub use files::{FileSpec, FileSpecError};
pub use password::{Password, PasswordError};
pub use ssh::{AuthorizedKey, KeyError, parse_keys};
pub use system::{Hostname, HostnameError, MachineId};

use editor::Editor;

/// Everything the user asked for.
#[derive(Debug, Clone, Default)]
pub struct Customization {
    /// The system's name.
    pub hostname: Option<Hostname>,
    /// Accounts to make, in order. One that the image has already is kept.
    pub users: Vec<User>,
    /// Keys that may log in: as each of `users`, or as root without any.
    pub ssh_keys: Vec<AuthorizedKey>,
    /// root's password.
    pub root_password: Option<Password>,
    /// Files and directories of the host to put into the tree, in order and
    /// before anything else.
    pub files: Vec<FileSpec>,
    /// What becomes of the identity of the machine the image was made on.
    pub machine_id: MachineId,
    /// What names the image and the options, for the salt of passwords. The
    /// same identity and password give the same hash.
    pub identity: Vec<u8>,
    /// The modification time of all that is changed.
    pub time: Timestamp,
}

/// Why a tree cannot be customised.
#[derive(Debug, thiserror::Error)]
pub enum CustomizeError {
    /// A file of the image cannot be changed.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// A file of the host cannot be put into the tree.
    #[error("cannot add {path}: {problem}")]
    File {
        /// The file of the host.
        path: std::path::PathBuf,
        /// Why not.
        problem: String,
    },
    /// The password cannot be hashed.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// A user cannot be made.
    #[error("cannot add user {name}: {problem}")]
    User {
        /// The account's name.
        name: String,
        /// Why not.
        problem: String,
    },
}

impl Customization {
    /// Changes `tree`; oddities end up in its [`Tree::warnings`].
    ///
    /// # Errors
    /// The first thing that cannot be done; the tree is of no use afterwards.
    pub fn apply(&self, tree: &mut Tree) -> Result<(), CustomizeError> {
        for file in &self.files {
            files::add(tree, file, self.time)?;
        }
        let mut editor = Editor::new(tree, self.time);
        if let Some(hostname) = &self.hostname {
            system::set_hostname(&mut editor, hostname)?;
        }
        system::forget_builder(&mut editor)?;
        system::set_machine_id(&mut editor, self.machine_id)?;
        system::check_fstab(&mut editor)?;
        for user in &self.users {
            accounts::add(&mut editor, user)?;
        }
        if let Some(password) = &self.root_password {
            let hash = password.hash(&self.identity, "root")?;
            accounts::set_root_password(&mut editor, &hash)?;
        }
        if self.ssh_keys.is_empty() {
            return Ok(());
        }
        let names = self.users.iter().map(User::name);
        let root = self.users.is_empty().then_some("root");
        for name in names.chain(root) {
            ssh::authorize(&mut editor, name, &self.ssh_keys)?;
        }
        Ok(())
    }
}
