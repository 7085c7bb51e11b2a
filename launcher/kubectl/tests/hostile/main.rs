//! The plugin, as a program, with a server that breaks off, talks nonsense, or
//! writes to the terminal of whoever looks.

#![allow(clippy::unwrap_used, clippy::panic)]

mod forward;
mod server;
mod terminal;

use rustix::process::Signal;

use server::{Fate, Server};
use terminal::Terminal;

/// What the server shows of the console, or sends from a port, before its fate.
const SHOWN: &str = "login: ";

#[test]
fn a_console_that_breaks_off_leaves_the_terminal_as_it_was() {
    for (name, fate, words) in [
        ("no frame", Fate::Send(vec![]), "broke"),
        ("half a frame", Fate::Send(vec![0x82, 0x7e, 0x10]), "broke"),
        ("an unknown frame", Fate::Send(vec![0x8f, 0x00]), "broke"),
        (
            "a frame of 4 EiB",
            Fate::Send(vec![0x82, 0x7f, 0x40, 0, 0, 0, 0, 0, 0, 0]),
            "broke",
        ),
        (
            "a status that is none",
            Fate::Send(vec![0x82, 0x02, 3, b'{']),
            "broke",
        ),
        (
            "the end in good order",
            Fate::Send(vec![0x88, 0x00]),
            "broke",
        ),
    ] {
        let server = Server::start(fate);
        let mut terminal = Terminal::run(server.plugin(&["console", "web"]));
        let (well, shown) = terminal.end(name);
        assert!(!well && shown.contains(words), "{name}: {shown}");
        assert!(shown.contains(SHOWN), "{name}: {shown}");
        terminal.assert_as_before(name);
    }
}

#[test]
fn whoever_leaves_a_console_has_the_terminal_back() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let name = format!("{signal:?}");
        let server = Server::start(Fate::Hold);
        let mut terminal = Terminal::run(server.plugin(&["console", "web"]));
        terminal.until(SHOWN);
        terminal.assert_raw(&name);
        terminal.signal(signal);
        let (well, shown) = terminal.end(&name);
        assert!(well, "{name}: {shown}");
        terminal.assert_as_before(&name);
    }
    let server = Server::start(Fate::Hold);
    let mut terminal = Terminal::run(server.plugin(&["console", "web"]));
    terminal.until(SHOWN);
    terminal.write(b"\x1d");
    let (well, shown) = terminal.end("Ctrl-]");
    assert!(well, "{shown}");
    terminal.assert_as_before("Ctrl-]");
}

#[test]
fn nothing_that_a_server_says_changes_the_terminal() {
    for words in [
        &["status"][..],
        &["status", "web"],
        &["status", "web", "-o", "json"],
        &["status", "pool/web"],
        &["console", "stopped"],
        &["restart", "refused"],
    ] {
        let server = Server::start(Fate::Hold);
        let mut terminal = Terminal::run(server.plugin(words));
        let (_, shown) = terminal.end(&words.join(" "));
        let shown = shown.replace("\r\n", "\n");
        assert!(shown.contains("owned"), "{words:?}: {shown:?}");
        let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!shown.contains(bad), "{words:?}: {shown:?}");
    }
}
