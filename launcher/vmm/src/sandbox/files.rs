//! Which files a thread can reach by name: Landlock.
//!
//! Descriptors that are open already keep their rights. Older kernels know
//! fewer kinds of access; what they know is restricted.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
};

use super::{Files, SandboxError};

/// The newest kinds of access that are asked for.
const KNOWN: ABI = ABI::V5;

/// Denies the calling thread, and those that it starts, all files but these,
/// and TCP.
pub(super) fn restrict(files: &Files) -> Result<(), SandboxError> {
    let failed = |error: &dyn std::fmt::Display| SandboxError::Files(error.to_string());
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|rules| rules.handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp))
        .and_then(|rules| rules.create())
        .map_err(|e| failed(&e))?;
    // Running a program is no part of reading.
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    for path in &files.read {
        rules = allow(rules, path, read)?;
    }
    let write = AccessFs::from_all(KNOWN) & !AccessFs::Execute;
    for path in &files.write {
        rules = allow(rules, path, write)?;
    }
    for path in &files.emptied {
        rules = allow(rules, path, AccessFs::RemoveDir.into())?;
    }
    rules.restrict_self().map_err(|e| failed(&e))?;
    Ok(())
}

/// Adds what makes sense for `path`; one that does not exist needs no rule.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, SandboxError> {
    let failed =
        |error: &dyn std::fmt::Display| SandboxError::Files(format!("{}: {error}", path.display()));
    let Ok(metadata) = path.metadata() else {
        return Ok(rules);
    };
    let access = match metadata.is_dir() {
        true => access,
        false => access & AccessFs::from_file(KNOWN),
    };
    let at = PathFd::new(path).map_err(|e| failed(&e))?;
    rules
        .add_rule(PathBeneath::new(at, access))
        .map_err(|e| failed(&e))
}
