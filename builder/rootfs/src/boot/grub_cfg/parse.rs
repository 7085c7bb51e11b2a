//! From tokens to statements.

use std::rc::Rc;

use super::lex::{Piece, Token};
use super::{GrubError, MAX_DEPTH};

/// A word of a command.
pub(super) type Word = Vec<Piece>;

/// One statement of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// A command and its arguments.
    Command(Vec<Word>),
    /// `if`: conditions with what follows them, and the rest.
    If {
        /// Conditions in order, each with its branch.
        branches: Vec<(Vec<Statement>, Vec<Statement>)>,
        /// What follows `else`.
        otherwise: Vec<Statement>,
    },
    /// `for NAME in WORDS; do`.
    For {
        /// The variable.
        name: String,
        /// Its values.
        values: Vec<Word>,
        /// What is done with each.
        body: Vec<Statement>,
    },
    /// `while` and `until`: known, so that what follows is understood, but
    /// not run: they wait for keys and devices.
    Loop,
    /// `function NAME {`.
    Function {
        /// Its name.
        name: String,
        /// What it does.
        body: Rc<Vec<Statement>>,
    },
    /// `menuentry` and `submenu`.
    Menu {
        /// Whether it is a submenu.
        submenu: bool,
        /// Title and options.
        words: Vec<Word>,
        /// What is in the braces.
        body: Rc<Vec<Statement>>,
    },
}

/// Parses a whole file.
pub(super) fn parse(tokens: &[Token]) -> Result<Vec<Statement>, GrubError> {
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
    };
    let statements = parser.block(&[])?;
    match parser.peek() {
        None => Ok(statements),
        Some(_) => Err(GrubError::Syntax("a block is closed that was not opened")),
    }
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    /// Statements up to `}` or one of the keywords, which is left.
    fn block(&mut self, until: &[&str]) -> Result<Vec<Statement>, GrubError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(GrubError::TooDeep);
        }
        let mut statements = Vec::new();
        while let Some(token) = self.peek() {
            match token {
                Token::End => self.at += 1,
                Token::Close => break,
                token if token.keyword().is_some_and(|k| until.contains(&k)) => break,
                _ => statements.push(self.statement()?),
            }
        }
        self.depth -= 1;
        Ok(statements)
    }

    fn statement(&mut self) -> Result<Statement, GrubError> {
        let Some(token) = self.peek() else {
            return Err(GrubError::Syntax("it ends too early"));
        };
        match token.keyword() {
            Some("if") => self.conditional(),
            Some("for") => self.iteration(),
            Some("while" | "until") => {
                self.at += 1;
                self.block(&["do"])?;
                self.expect("do")?;
                self.block(&["done"])?;
                self.expect("done")?;
                Ok(Statement::Loop)
            }
            Some("function") => {
                self.at += 1;
                let name = self.name()?;
                let body = self.braces()?;
                Ok(Statement::Function { name, body })
            }
            Some(word @ ("menuentry" | "submenu")) => {
                self.at += 1;
                let words = self.words();
                let body = self.braces()?;
                let submenu = word == "submenu";
                Ok(Statement::Menu {
                    submenu,
                    words,
                    body,
                })
            }
            _ => match self.words() {
                words if words.is_empty() => Err(GrubError::Syntax("a brace is out of place")),
                words => Ok(Statement::Command(words)),
            },
        }
    }

    fn conditional(&mut self) -> Result<Statement, GrubError> {
        self.at += 1;
        let mut branches = Vec::new();
        loop {
            let condition = self.block(&["then"])?;
            self.expect("then")?;
            branches.push((condition, self.block(&["elif", "else", "fi"])?));
            match self.take_keyword() {
                Some("elif") => {}
                Some("else") => {
                    let otherwise = self.block(&["fi"])?;
                    self.expect("fi")?;
                    return Ok(Statement::If {
                        branches,
                        otherwise,
                    });
                }
                Some("fi") => {
                    return Ok(Statement::If {
                        branches,
                        otherwise: Vec::new(),
                    });
                }
                _ => return Err(GrubError::Syntax("an if has no fi")),
            }
        }
    }

    fn iteration(&mut self) -> Result<Statement, GrubError> {
        self.at += 1;
        let name = self.name()?;
        self.expect("in")?;
        let values = self.words();
        while self.peek() == Some(&Token::End) {
            self.at += 1;
        }
        self.expect("do")?;
        let body = self.block(&["done"])?;
        self.expect("done")?;
        Ok(Statement::For { name, values, body })
    }

    fn braces(&mut self) -> Result<Rc<Vec<Statement>>, GrubError> {
        while self.peek() == Some(&Token::End) {
            self.at += 1;
        }
        if self.peek() != Some(&Token::Open) {
            return Err(GrubError::Syntax("a { is missing"));
        }
        self.at += 1;
        let body = self.block(&[])?;
        if self.peek() != Some(&Token::Close) {
            return Err(GrubError::Syntax("a } is missing"));
        }
        self.at += 1;
        Ok(Rc::new(body))
    }

    /// The words up to the end of the command.
    fn words(&mut self) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some(Token::Word { pieces, .. }) = self.peek() {
            words.push(pieces.clone());
            self.at += 1;
        }
        words
    }

    fn name(&mut self) -> Result<String, GrubError> {
        let name = self.take_keyword().map(str::to_owned);
        name.ok_or(GrubError::Syntax("a name is missing"))
    }

    fn take_keyword(&mut self) -> Option<&'a str> {
        let keyword = self.peek()?.keyword()?;
        self.at += 1;
        Some(keyword)
    }

    fn expect(&mut self, keyword: &'static str) -> Result<(), GrubError> {
        match self.take_keyword() {
            Some(found) if found == keyword => Ok(()),
            _ => Err(GrubError::Missing(keyword)),
        }
    }
}
