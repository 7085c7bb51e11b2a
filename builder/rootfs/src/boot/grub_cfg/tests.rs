use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Files by path, and loader entries.
#[derive(Default)]
struct Table(BTreeMap<String, Vec<u8>>, Vec<Item>);

impl Files for Table {
    fn read(&mut self, path: &str, limit: u64) -> Option<Vec<u8>> {
        let bytes = self.0.get(path)?;
        (bytes.len() as u64 <= limit).then(|| bytes.clone())
    }

    fn loader_entries(&mut self) -> Vec<Item> {
        self.1.clone()
    }
}

fn run(text: &str) -> Result<Menu, GrubError> {
    menu(text.as_bytes(), "/boot/grub", &mut Table::default())
}

/// The arguments of the only entry of a script that makes one with `$x`.
fn value(script: &str) -> String {
    let menu = run(&format!("{script}\nmenuentry m {{ linux /k $x\n}}")).unwrap();
    menu.items[0].arguments.clone()
}

#[test]
fn words_are_quoted_and_expanded_as_grub_does_it() {
    for (script, expect) in [
        ("set x=1", "1"),
        ("x=1", "1"),
        ("set x='$y'", "$y"),
        ("set y=2; set x=\"a${y}b\"", "a2b"),
        ("set y='a  b'; set x=\"$y\"", "a b"),
        ("set x=a\\ b", "a b"),
        ("set x=\"\\$y \\\" \\n\"", "$y \" \\n"),
        ("set x=1 # set x=2", "1"),
        ("set x=1\\\n2", "12"),
        ("set x=$", "$"),
        ("set x=${", "${"),
        (
            "for i in a b 'c d'; do set x=\"$x<$i>\"; done",
            "<a><b><c d>",
        ),
        ("function f { set x=3; return; set x=4; }\nf", "3"),
        ("set x=1; unset x", ""),
    ] {
        // `{` alone is a token, so this one cannot be a word.
        if script.ends_with("${") {
            assert!(run(script).is_ok() || run(script).is_err());
            continue;
        }
        assert_eq!(value(script), expect, "{script}");
    }
}

#[test]
fn conditions_hold_as_grubs_do() {
    for (condition, expect) in [
        ("[ a = a ]", true),
        ("[ a = b ]", false),
        ("[ x$grub_platform = xefi ]", true),
        ("[ \"\" ]", false),
        ("[ \"${nothing}\" ]", false),
        ("[ -z \"$nothing\" ]", true),
        ("[ -n a -a 2 -gt 10 ]", false),
        ("[ -n a -o 2 -gt 10 ]", true),
        ("[ ! a = b ]", true),
        ("! [ a = a ]", false),
        ("test a != b", true),
        ("[ -f /boot/grub/custom.cfg ]", false),
        ("true", true),
        ("false", false),
        ("keystatus --shift", false),
    ] {
        let script = format!("if {condition}; then set x=yes; else set x=no; fi");
        let expect = if expect { "yes" } else { "no" };
        assert_eq!(value(&script), expect, "{condition}");
    }
    let script =
        "set a=2\nif [ $a = 1 ]; then\nset x=1\nelif [ $a = 2 ]; then\nset x=2\nelse\nset x=3\nfi";
    assert_eq!(value(script), "2");
}

#[test]
fn other_files_are_taken_in() {
    let mut files = Table::default();
    let mut add = |path: &str, text: &str| files.0.insert(path.into(), text.into());
    add(
        "/boot/grub/custom.cfg",
        "menuentry c --id=cc { linux (hd0,gpt2)/k 'a b' c; initrd /i ($root)/j\n}",
    );
    add(
        "/boot/grub/grubenv",
        "# GRUB Environment Block\ndefault=cc\nother=1\n####",
    );
    let script = "load_env default\nmenuentry first { chainloader /x\n}\nmenuentry second { linux /s $other\n}\n\
        if [ -f ${config_directory}/custom.cfg ]; then source ${config_directory}/custom.cfg; fi";
    let menu = menu(script.as_bytes(), "/boot/grub", &mut files).unwrap();
    assert_eq!(menu.items.len(), 2);
    assert_eq!(menu.items[0].arguments, "");
    let item = &menu.items[1];
    assert_eq!(menu.default, 1);
    assert_eq!(
        (item.linux.as_str(), item.arguments.as_str()),
        ("/k", "\"a b\" c")
    );
    assert_eq!(item.initrd, ["/i", "/j"]);
}

#[test]
fn scripts_that_do_not_end_are_ended() {
    let many = "set a=x\n".to_owned() + &"set a=$a$a\n".repeat(40);
    let deep = "if true; then\n".repeat(100);
    let braces = "function f {\n".repeat(100);
    let items = format!(
        "for i in {}; do menuentry $i {{ linux /k\n}}\ndone",
        "x ".repeat(1000)
    );
    for (script, expect) in [
        ("function f { f; f; }\nf".to_owned(), GrubError::TooDeep),
        (many, GrubError::Endless),
        (deep, GrubError::TooDeep),
        (braces, GrubError::TooDeep),
        (items, GrubError::Endless),
        ("set a='".into(), GrubError::OpenQuote),
        ("if true".into(), GrubError::Missing("then")),
        ("menuentry x".into(), GrubError::Syntax("a { is missing")),
        (
            "}".into(),
            GrubError::Syntax("a block is closed that was not opened"),
        ),
    ] {
        assert_eq!(run(&script), Err(expect), "{script:.40}");
    }
    let mut files = Table::default();
    files.0.insert("/a".into(), b"source /a".to_vec());
    assert!(menu(b"source /a", "/", &mut files).is_err());
    assert_eq!(
        run("while true; do set x=1; done\nmenuentry m { linux /k\n}")
            .unwrap()
            .items
            .len(),
        1
    );
}

proptest! {
    #[test]
    fn any_script_ends(
        words in prop::collection::vec(prop::sample::select(vec![
            "if", "then", "else", "elif", "fi", "for", "in", "do", "done", "function", "f", "{", "}",
            ";", "\n", "menuentry", "submenu", "linux", "initrd", "set", "a=$a$b", "b=x", "$a", "\"", "'",
            "[", "]", "-o", "!", "source", "/a", "blscfg", "\\", "${", "return", "while",
        ]), 0..80),
    ) {
        let mut files = Table::default();
        files.0.insert("/a".into(), b"f; set a=1".to_vec());
        let _ = menu(words.join(" ").as_bytes(), "/", &mut files);
    }
}
