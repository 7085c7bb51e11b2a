//! A disk with cloud-init's NoCloud data (its documentation, "NoCloud",
//! section "Source 2: drive with labelled filesystem").

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bootwright_disk::{Extent, PlanBuilder};
use bootwright_image::Timestamp;
use bootwright_rootfs::fat::{self, FatFile};
use bootwright_rootfs::tree::FileContent;

use super::stored_plan;

/// The label that cloud-init looks for.
const LABEL: &str = "CIDATA";

/// The folder of the seed's plan.
const FOLDER: &str = "seed";

/// Writes the plan of the seed disk into a folder in `dir`, and says which.
pub(crate) fn save(
    dir: &Path,
    instance: uuid::Uuid,
    hostname: &str,
    user_data: Vec<u8>,
) -> anyhow::Result<PathBuf> {
    let meta = format!("instance-id: {instance}\nlocal-hostname: {hostname}\n");
    let files = [
        file("meta-data", meta.into_bytes()),
        file("user-data", user_data),
    ];
    let options = fat::Options {
        size: Some(fat::MIN_SIZE),
        volume_id: instance.as_fields().0,
        label: LABEL.to_owned(),
        time: Timestamp { secs: 0, nanos: 0 },
    };
    let volume = fat::format(&files, &options).context("the seed disk for cloud-init")?;
    let mut builder = PlanBuilder::new(Vec::new());
    builder.put_volume(0, volume.extents);
    let plan = builder.finish(volume.size)?;
    let dir = dir.join(FOLDER);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    stored_plan::save(&plan, &dir)?;
    Ok(dir)
}

fn file(path: &str, bytes: Vec<u8>) -> FatFile {
    let size = bytes.len() as u64;
    FatFile {
        path: path.to_owned(),
        content: FileContent {
            size,
            extents: match size {
                0 => Vec::new(),
                _ => vec![Extent::literal(0, bytes)],
            },
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bootwright_disk::{PlanReader, ReadAt as _};

    use super::*;

    #[test]
    fn other_readers_find_the_user_data() {
        let dir = tempfile::tempdir().unwrap();
        let text = b"#cloud-config\nhostname: x\n".to_vec();
        let folder = save(dir.path(), uuid::Uuid::nil(), "web", text.clone()).unwrap();
        let (plan, _) = stored_plan::load(&folder).unwrap();
        let mut bytes = vec![0; plan.size() as usize];
        PlanReader::new(plan).read_exact_at(0, &mut bytes).unwrap();
        let image = dir.path().join("seed.raw");
        std::fs::write(&image, bytes).unwrap();
        let tool = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program)
                .args(arguments)
                .output()
                .unwrap();
            assert!(output.status.success(), "{program}: {output:?}");
            output.stdout
        };
        let image = image.to_str().unwrap();
        tool("fsck.fat", &["-n", image]);
        assert_eq!(tool("mtype", &["-i", image, "::user-data"]), text);
        let label = tool("blkid", &["-p", "-o", "value", "-s", "LABEL", image]);
        assert_eq!(String::from_utf8(label).unwrap().trim(), "CIDATA");
    }
}
