//! The links of the book and of the other Markdown files lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use xshell::{Shell, cmd};

use crate::{paths, proc};

/// Checks that every relative link names a file of the repository, and that
/// every page is in the table of contents.
pub(crate) fn check() -> Result<()> {
    let root = paths::workspace();
    let sh = Shell::new()?;
    sh.change_dir(&root);
    let list = proc::read(cmd!(
        sh,
        "git ls-files --cached --others --exclude-standard *.md"
    ))?;
    let mut wrong = Vec::new();
    for file in list.lines() {
        let path = root.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
        let folder = path.parent().unwrap_or(&root);
        let dead = links(&text).filter(|link| !folder.join(link).exists());
        wrong.extend(dead.map(|link| format!("{file}: no file {}", link.display())));
    }
    let book = root.join("docs/src");
    let summary = fs::read_to_string(book.join("SUMMARY.md"))?;
    let pages: Vec<PathBuf> = links(&summary).map(|link| book.join(link)).collect();
    let in_book = list
        .lines()
        .map(|file| root.join(file))
        .filter(|p| p.starts_with(&book));
    let lost = in_book.filter(|p| !p.ends_with("SUMMARY.md") && !pages.contains(p));
    wrong.extend(lost.map(|p| format!("{}: not in SUMMARY.md", p.display())));
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// Where relative links in a Markdown text lead, less their fragments.
fn links(text: &str) -> impl Iterator<Item = &Path> {
    let code = |line: &&str| !line.starts_with("    ");
    let after = text
        .lines()
        .filter(code)
        .flat_map(|line| line.split("](").skip(1));
    after.filter_map(|rest| {
        let target = rest.split(')').next()?.split('#').next()?;
        let local = !target.is_empty() && !target.contains("://") && !target.contains(' ');
        local.then(|| Path::new(target))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relative_links_are_followed() {
        let text =
            "[a](b.md) and [c](d/e.md#f), not [g](https://h.example/i) or [j](#k)\n    [l](m)";
        let found: Vec<_> = links(text).collect();
        assert_eq!(found, [Path::new("b.md"), Path::new("d/e.md")]);
    }
}
