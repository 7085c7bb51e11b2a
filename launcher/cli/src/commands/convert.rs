//! `bootwright convert`: KubeVirt's manifests in, Bootwright's out.
//!
//! Files are read whole and converted object by object; what does not carry
//! over goes to standard error. Output is written only when everything has
//! been converted, so that half of a manifest is never applied.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use bootwright_controller::convert::{self, Weight};
use serde::Serialize;
use serde_json::Value;

use crate::args::ConvertArgs;
use crate::progress::Messages;

/// The largest manifest that is read: an object in a cluster has at most
/// 1.5 MiB, and this is a list of many.
const MAX_MANIFEST: u64 = 16 << 20;

/// What was converted, for `--json`.
#[derive(Debug, Default, Serialize)]
struct Report {
    objects: Vec<Value>,
    notes: Vec<Note>,
}

/// A field that does not carry over.
#[derive(Debug, Serialize)]
struct Note {
    /// The file that holds it.
    file: String,
    /// Kind and name of the object that holds it.
    object: String,
    /// Its path in the object.
    path: String,
    /// Whether the machine is another one without it.
    lost: bool,
    why: String,
}

/// Runs the command.
pub(crate) fn run(args: &ConvertArgs) -> anyhow::Result<()> {
    let messages = Messages::new(args.output.quiet);
    let mut report = Report::default();
    for file in &args.files {
        convert_file(file, &mut report)?;
    }
    for note in &report.notes {
        let Note {
            file,
            object,
            path,
            why,
            ..
        } = note;
        let at = if path.is_empty() { "" } else { ": " };
        match note.lost {
            true => messages.warn(&format!("{file}: {object}: lost{at}{path}: {why}")),
            false => messages.note(&format!("{file}: {object}: ignored{at}{path}: {why}")),
        }
    }
    let lost = report.notes.iter().filter(|note| note.lost).count();
    if lost > 0 && !args.lossy {
        bail!(
            "{} would be lost, so nothing is written; --lossy writes what is left",
            counted(lost)
        );
    }
    let text = match args.output.json {
        true => format!("{}\n", serde_json::to_string_pretty(&report)?),
        false => convert::write(&report.objects)?,
    };
    match &args.file {
        Some(path) => write(path, &text)?,
        None => io::stdout().write_all(text.as_bytes())?,
    }
    match lost {
        0 => Ok(()),
        lost => bail!("{} lost", counted(lost)),
    }
}

fn counted(fields: usize) -> String {
    match fields {
        1 => "1 field".to_owned(),
        _ => format!("{fields} fields"),
    }
}

fn convert_file(file: &Path, report: &mut Report) -> anyhow::Result<()> {
    let name = match file.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => file.display().to_string(),
    };
    let bytes = match file.to_str() {
        Some("-") => {
            let mut bytes = Vec::new();
            let mut input = io::stdin().lock().take(MAX_MANIFEST + 1);
            input
                .read_to_end(&mut bytes)
                .context("cannot read standard input")?;
            if bytes.len() as u64 > MAX_MANIFEST {
                bail!("standard input is larger than {MAX_MANIFEST} bytes");
            }
            bytes
        }
        _ => super::read_limited(file, MAX_MANIFEST)?,
    };
    let text = String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8"))?;
    let objects = convert::read(&text).with_context(|| name.clone())?;
    for object in objects {
        let converted = convert::convert(&object);
        let word = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let kind = word("/kind").unwrap_or("object");
        let called = word("/metadata/name").or(word("/metadata/generateName"));
        let named = format!("{kind} {}", called.unwrap_or("without a name"));
        report
            .notes
            .extend(converted.notes.into_iter().map(|note| Note {
                file: name.clone(),
                object: named.clone(),
                path: note.path,
                lost: note.weight == Weight::Lost,
                why: note.why,
            }));
        report.objects.push(converted.object);
    }
    Ok(())
}

/// Writes a file under a temporary name first.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .inspect_err(|_| drop(fs::remove_file(&new)))
        .with_context(|| format!("cannot write {}", path.display()))
}
