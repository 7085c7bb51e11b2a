//! The page of the book that holds the results.
//!
//! Each subject of the benchmarks has a section of its own, which begins with
//! a comment that names it and ends where the next one begins. A run renews
//! its own section and leaves the others as they are.

use std::fs;

use anyhow::{Context as _, Result};

use crate::paths;

/// Where the page is.
const PAGE: &str = "docs/src/benchmarks.md";

/// Writes a section of the page anew, in the place of the old one.
pub(super) fn renew(section: &str, text: &str) -> Result<()> {
    let path = paths::workspace().join(PAGE);
    let old = fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
    fs::write(&path, renewed(&old, section, text)).with_context(|| format!("cannot write {PAGE}"))
}

/// The line with which a section begins.
fn mark(section: &str) -> String {
    format!("<!-- cargo xtask bench {section} -->")
}

fn renewed(page: &str, section: &str, text: &str) -> String {
    let mark = mark(section);
    let (before, rest) = page.split_once(&mark).unwrap_or((page, ""));
    let after = rest.find("<!-- cargo xtask bench ");
    let after = after.and_then(|at| rest.get(at..)).unwrap_or_default();
    let parts = [
        before.trim_end(),
        &format!("{mark}\n{}", text.trim()),
        after,
    ];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n\n").trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_renewed_and_the_others_stay() {
        let one = renewed("# Title\n", "one", "first\n");
        assert_eq!(one, "# Title\n\n<!-- cargo xtask bench one -->\nfirst\n");
        let both = renewed(&one, "two", "second");
        let again = renewed(&both, "one", "third");
        let expect = both.replace("first", "third");
        assert_eq!(again, expect);
        assert!(again.ends_with("third\n\n<!-- cargo xtask bench two -->\nsecond\n"));
        assert_eq!(renewed(&again, "two", "second"), again);
    }

    #[test]
    fn the_page_of_the_book_has_a_section_for_the_builder() {
        let page = fs::read_to_string(paths::workspace().join(PAGE)).unwrap();
        assert!(page.contains(&mark("build")), "it would be added anew");
    }
}
