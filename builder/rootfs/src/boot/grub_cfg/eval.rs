//! Running a script.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::lex::Piece;
use super::parse::{Statement, Word};
use super::{Files, GrubError, Item, MAX_SIZE, Menu, environment, expand, script, test};

/// Most statements that are run, of all entries together.
const MAX_STEPS: usize = 100_000;
/// How deep statements, functions and files may call each other.
const MAX_CALLS: usize = 150;
/// Most bytes of all variables, and of the words of a command.
const MAX_BYTES: usize = 256 * 1024;
/// Most entries of a menu.
const MAX_ITEMS: usize = 500;

/// Variables that GRUB sets before it reads its configuration; scripts of
/// grub-mkconfig ask for them.
const PRESET: [(&str, &str); 8] = [
    ("root", "hd0"),
    ("cmdpath", "(hd0)"),
    ("grub_platform", "efi"),
    ("feature_menuentry_id", "y"),
    ("feature_timeout_style", "y"),
    ("feature_default_font_path", "y"),
    ("feature_all_video_module", "y"),
    ("feature_platform_search_hint", "y"),
];

/// An entry as the script makes it.
struct Found {
    title: String,
    id: String,
    what: What,
}

enum What {
    /// To be run when it is chosen.
    Body(Rc<Vec<Statement>>),
    Submenu(Rc<Vec<Statement>>),
    /// From a loader entry.
    Ready(Item),
}

/// How a list of statements ended.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Return,
    Exit,
}

pub(super) struct Shell<'f> {
    files: &'f mut dyn Files,
    variables: BTreeMap<String, String>,
    functions: BTreeMap<String, Rc<Vec<Statement>>>,
    found: Vec<Found>,
    linux: Option<(String, String)>,
    initrd: Vec<String>,
    /// Bytes of all variables.
    size: usize,
    steps: usize,
    calls: usize,
    status: bool,
}

impl<'f> Shell<'f> {
    pub(super) fn new(directory: &str, files: &'f mut dyn Files) -> Self {
        let mut variables: BTreeMap<String, String> = PRESET
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        variables.insert("prefix".into(), directory.into());
        variables.insert("config_directory".into(), directory.into());
        Self {
            files,
            variables,
            functions: BTreeMap::new(),
            found: Vec::new(),
            linux: None,
            initrd: Vec::new(),
            size: 0,
            steps: 0,
            calls: 0,
            status: true,
        }
    }

    /// Runs the script, then every entry that it made.
    pub(super) fn menu(mut self, statements: &[Statement]) -> Result<Menu, GrubError> {
        self.run(statements)?;
        let mut menu = Menu::default();
        let mut default = self.get("default");
        if default == "saved" {
            default = self.get("saved_entry");
        }
        let found = std::mem::take(&mut self.found);
        self.add(found, "", Some(&default), &mut menu)?;
        Ok(menu)
    }

    /// Adds entries to the menu. `default` chooses one of them, with `>`
    /// between the names of submenus (GRUB manual, "default").
    fn add(
        &mut self,
        found: Vec<Found>,
        before: &str,
        default: Option<&str>,
        menu: &mut Menu,
    ) -> Result<(), GrubError> {
        let mut parts = default.map(|d| d.split_once('>').unwrap_or((d, "0")));
        let chosen = parts.map(|(first, _)| choice(&found, first));
        for (n, entry) in found.into_iter().enumerate() {
            let is_default = chosen == Some(n);
            let title = format!("{before}{}", entry.title);
            let at = menu.items.len();
            match entry.what {
                What::Ready(item) => menu.items.push(item),
                What::Body(body) => {
                    let before = self.variables.clone();
                    (self.linux, self.initrd) = (None, Vec::new());
                    self.run(&body)?;
                    self.variables = before;
                    if let Some((linux, arguments)) = self.linux.take() {
                        menu.items.push(Item {
                            id: entry.id,
                            title,
                            linux,
                            arguments,
                            initrd: std::mem::take(&mut self.initrd),
                        });
                    }
                }
                What::Submenu(body) => {
                    let before = self.variables.clone();
                    self.run(&body)?;
                    self.variables = before;
                    let inner = std::mem::take(&mut self.found);
                    let rest = parts.take().filter(|_| is_default).map(|(_, rest)| rest);
                    let was = menu.default;
                    self.add(inner, &format!("{title}>"), rest, menu)?;
                    if rest.is_none() {
                        menu.default = was;
                    }
                    continue;
                }
            }
            if menu.items.len() > MAX_ITEMS {
                return Err(GrubError::Endless);
            }
            if is_default && menu.items.len() > at {
                menu.default = at;
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> String {
        self.variables.get(name).cloned().unwrap_or_default()
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), GrubError> {
        self.size += name.len() + value.len();
        if let Some(old) = self.variables.insert(name.to_owned(), value) {
            self.size = self.size.saturating_sub(name.len() + old.len());
        }
        match self.size > MAX_BYTES {
            true => Err(GrubError::Endless),
            false => Ok(()),
        }
    }

    fn run(&mut self, statements: &[Statement]) -> Result<Flow, GrubError> {
        self.calls += 1;
        if self.calls > MAX_CALLS {
            return Err(GrubError::TooDeep);
        }
        for statement in statements {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(GrubError::Endless);
            }
            let flow = self.statement(statement)?;
            if flow != Flow::On {
                self.calls -= 1;
                return Ok(flow);
            }
        }
        self.calls -= 1;
        Ok(Flow::On)
    }

    fn statement(&mut self, statement: &Statement) -> Result<Flow, GrubError> {
        match statement {
            Statement::Command(words) => {
                let words = self.expand(words)?;
                return self.command(&words);
            }
            Statement::If {
                branches,
                otherwise,
            } => {
                for (condition, branch) in branches {
                    self.status = false;
                    self.run(condition)?;
                    if self.status {
                        return self.run(branch);
                    }
                }
                return self.run(otherwise);
            }
            Statement::For { name, values, body } => {
                for value in self.expand(values)? {
                    self.set(name, value)?;
                    let flow = self.run(body)?;
                    if flow != Flow::On {
                        return Ok(flow);
                    }
                }
            }
            Statement::Loop => {}
            Statement::Function { name, body } => {
                self.functions.insert(name.clone(), Rc::clone(body));
            }
            Statement::Menu {
                submenu,
                words,
                body,
            } => {
                let words = self.expand(words)?;
                let (title, id) = title_and_id(&words);
                let body = Rc::clone(body);
                let what = match submenu {
                    true => What::Submenu(body),
                    false => What::Body(body),
                };
                self.push(Found { title, id, what })?;
            }
        }
        Ok(Flow::On)
    }

    fn push(&mut self, found: Found) -> Result<(), GrubError> {
        self.found.push(found);
        match self.found.len() > MAX_ITEMS {
            true => Err(GrubError::Endless),
            false => Ok(()),
        }
    }

    /// What words stand for now.
    fn expand(&self, words: &[Word]) -> Result<Vec<String>, GrubError> {
        let mut out = Vec::new();
        let mut size = 0;
        for word in words {
            let mut current: Option<String> = None;
            for piece in word {
                match piece {
                    Piece::Text(text) => current.get_or_insert_default().push_str(text),
                    Piece::Variable { name, quoted: true } => {
                        current.get_or_insert_default().push_str(&self.get(name));
                    }
                    Piece::Variable { name, .. } => {
                        // White space in a value parts words.
                        let value = self.get(name);
                        let mut parts = value.split_whitespace();
                        if let Some(first) = parts.next() {
                            current.get_or_insert_default().push_str(first);
                        }
                        for part in parts {
                            out.extend(current.take());
                            current = Some(part.to_owned());
                        }
                    }
                }
                size += current.as_ref().map_or(0, String::len);
                if size > MAX_BYTES || out.len() > MAX_BYTES {
                    return Err(GrubError::Endless);
                }
            }
            out.extend(current);
        }
        Ok(out)
    }

    fn command(&mut self, words: &[String]) -> Result<Flow, GrubError> {
        let Some((name, arguments)) = words.split_first() else {
            return Ok(Flow::On);
        };
        self.status = true;
        match name.as_str() {
            "!" => {
                let flow = self.command(arguments)?;
                self.status = !self.status;
                return Ok(flow);
            }
            "set" => {
                for argument in arguments {
                    if let Some((name, value)) = argument.split_once('=') {
                        self.set(name, value.to_owned())?;
                    }
                }
            }
            "unset" => {
                for name in arguments {
                    if let Some(old) = self.variables.remove(name) {
                        self.size = self.size.saturating_sub(name.len() + old.len());
                    }
                }
            }
            "[" | "test" => {
                let end = arguments.len() - usize::from(arguments.last().is_some_and(|w| w == "]"));
                // It may read a file.
                self.steps += 50;
                let expression = arguments.get(..end).unwrap_or_default();
                let files = &mut *self.files;
                let mut size = |path: &str| {
                    let bytes = files.read(without_device(path), MAX_SIZE)?;
                    Some(bytes.len() as u64)
                };
                self.status = test::holds(expression, &mut size);
            }
            "load_env" => self.load_env(arguments)?,
            "source" | "." | "configfile" => return self.source(arguments),
            "blscfg" => {
                for mut item in self.files.loader_entries() {
                    let get = |name: &str| self.variables.get(name).cloned();
                    item.arguments = expand(&item.arguments, get);
                    self.push(Found {
                        title: item.title.clone(),
                        id: item.id.clone(),
                        what: What::Ready(item),
                    })?;
                }
            }
            "linux" | "linux16" | "linuxefi" => {
                if let Some((kernel, rest)) = arguments.split_first() {
                    let rest: Vec<String> = rest.iter().map(|word| quoted(word)).collect();
                    self.linux = Some((without_device(kernel).to_owned(), rest.join(" ")));
                }
            }
            "initrd" | "initrd16" | "initrdefi" => {
                let paths = arguments.iter().map(|path| without_device(path).to_owned());
                self.initrd = paths.collect();
            }
            "return" => return Ok(Flow::Return),
            "exit" => return Ok(Flow::Exit),
            "false" => self.status = false,
            "true" | "echo" | "export" | "insmod" | "search" | "save_env" | "loadfont"
            | "terminal_input" | "terminal_output" | "serial" | "savedefault" => {}
            name => {
                if let Some((variable, value)) = name.split_once('=')
                    && arguments.is_empty()
                {
                    self.set(variable, value.to_owned())?;
                } else if let Some(body) = self.functions.get(name).map(Rc::clone) {
                    let flow = self.run(&body)?;
                    return Ok(match flow {
                        Flow::Return => Flow::On,
                        flow => flow,
                    });
                } else {
                    // Asked in a condition: is a key held, does the machine
                    // have this device? No.
                    self.status = false;
                }
            }
        }
        Ok(Flow::On)
    }

    fn load_env(&mut self, arguments: &[String]) -> Result<(), GrubError> {
        let mut path = format!("{}/grubenv", self.get("prefix"));
        let mut names = Vec::new();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-f" | "--file" => path = words.next().cloned().unwrap_or_default(),
                option if option.starts_with("--file=") => {
                    path = option.trim_start_matches("--file=").to_owned();
                }
                option if option.starts_with('-') => {}
                name => names.push(name),
            }
        }
        let Some(bytes) = self.files.read(without_device(&path), MAX_SIZE) else {
            self.status = false;
            return Ok(());
        };
        for (name, value) in environment(&bytes) {
            if names.is_empty() || names.contains(&name.as_str()) {
                self.set(&name, value)?;
            }
        }
        Ok(())
    }

    fn source(&mut self, arguments: &[String]) -> Result<Flow, GrubError> {
        let path = arguments.first().map(String::as_str).unwrap_or_default();
        // A file costs as much as many statements.
        self.steps += 1000;
        let Some(text) = self.files.read(without_device(path), MAX_SIZE) else {
            self.status = false;
            return Ok(Flow::On);
        };
        let statements = script(&text)?;
        self.run(&statements)
    }
}

/// Which entry a default names: by number, id or title; else the first.
fn choice(found: &[Found], name: &str) -> usize {
    if let Ok(number) = name.parse::<usize>() {
        return number;
    }
    let same = |e: &Found| e.id == name || e.title == name;
    found.iter().position(same).unwrap_or(0)
}

/// Title and `--id` of a menu entry (GRUB manual, "menuentry"). All but the
/// first word are options or arguments of the entry.
fn title_and_id(words: &[String]) -> (String, String) {
    let title = words.first().cloned().unwrap_or_default();
    let mut id = title.clone();
    let mut rest = words.iter().skip(1);
    while let Some(word) = rest.next() {
        if word == "--id" {
            id = rest.next().cloned().unwrap_or(id);
        } else if let Some(given) = word.strip_prefix("--id=") {
            id = given.to_owned();
        }
    }
    (title, id)
}

/// A path without `(hd0,gpt1)` before it: devices have other names here.
fn without_device(path: &str) -> &str {
    match path.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, path)) => path,
        None => path,
    }
}

/// An argument as GRUB hands it to the kernel: with quotes if there are
/// spaces in it.
fn quoted(word: &str) -> String {
    match word.contains(char::is_whitespace) {
        true => format!("\"{word}\""),
        false => word.to_owned(),
    }
}
