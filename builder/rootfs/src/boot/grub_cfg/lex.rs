//! Words of GRUB's scripting language (GRUB manual, "Shell-like scripting").
//!
//! A word is a list of pieces, because what a variable stands for is known
//! only when the command runs.

use super::{GrubError, MAX_TOKENS};

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text as it is.
    Text(String),
    /// The value of a variable; split at white space unless quoted.
    Variable {
        /// Its name, or a digit or `#`, `*`, `@`, `?`.
        name: String,
        /// Whether it was inside of double quotes.
        quoted: bool,
    },
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word. `bare` if nothing of it was quoted: only such can be keywords.
    Word {
        /// What it is made of.
        pieces: Vec<Piece>,
        /// Whether it was written without quotes, escapes and variables.
        bare: bool,
    },
    /// `;` or the end of a line.
    End,
    /// `{` by itself.
    Open,
    /// `}` by itself.
    Close,
}

impl Token {
    /// The word, if it can be a keyword.
    pub(super) fn keyword(&self) -> Option<&str> {
        match self {
            Self::Word { pieces, bare: true } => match pieces.as_slice() {
                [Piece::Text(text)] => Some(text),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Splits text into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, GrubError> {
    let mut lexer = Lexer {
        rest: text,
        tokens: Vec::new(),
    };
    while !lexer.rest.is_empty() {
        lexer.token()?;
        if lexer.tokens.len() > MAX_TOKENS {
            return Err(GrubError::TooLong);
        }
    }
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    rest: &'a str,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or_default();
        Some(c)
    }

    fn token(&mut self) -> Result<(), GrubError> {
        match self.peek() {
            Some(c) if c == '\n' || c == ';' => {
                self.next();
                self.tokens.push(Token::End);
            }
            Some(c) if c.is_whitespace() => drop(self.next()),
            Some('#') => {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.rest = self.rest.get(end..).unwrap_or_default();
            }
            Some('{') => {
                self.next();
                self.tokens.push(Token::Open);
            }
            Some('}') => {
                self.next();
                self.tokens.push(Token::Close);
            }
            // Joins lines; nothing else of a word is between.
            Some('\\') if self.rest.starts_with("\\\n") => {
                self.rest = self.rest.get(2..).unwrap_or_default();
            }
            Some(_) => self.word()?,
            None => {}
        }
        Ok(())
    }

    fn word(&mut self) -> Result<(), GrubError> {
        let mut word = Word::default();
        while let Some(c) = self.peek() {
            match c {
                ';' | '{' | '}' => break,
                c if c.is_whitespace() => break,
                '\'' => {
                    self.next();
                    word.bare = false;
                    let end = self.rest.find('\'').ok_or(GrubError::OpenQuote)?;
                    let (text, rest) = self.rest.split_at(end);
                    word.text(text);
                    self.rest = rest.get(1..).unwrap_or_default();
                }
                '"' => {
                    self.next();
                    word.bare = false;
                    self.double_quoted(&mut word)?;
                }
                '\\' => {
                    self.next();
                    word.bare = false;
                    match self.next() {
                        Some('\n') | None => {}
                        Some(c) => word.char(c),
                    }
                }
                '$' => self.variable(&mut word, false),
                c => {
                    self.next();
                    word.char(c);
                }
            }
        }
        // An empty pair of quotes is a word too.
        let Word { pieces, bare } = word;
        self.tokens.push(Token::Word { pieces, bare });
        Ok(())
    }

    fn double_quoted(&mut self, word: &mut Word) -> Result<(), GrubError> {
        // Keeps a word of only quotes from vanishing when it is expanded.
        word.text("");
        loop {
            match self.peek() {
                None => return Err(GrubError::OpenQuote),
                Some('"') => {
                    self.next();
                    return Ok(());
                }
                Some('\\') => {
                    self.next();
                    match self.next() {
                        Some('\n') | None => {}
                        Some(c) if "$\"\\".contains(c) => word.char(c),
                        Some(c) => {
                            word.char('\\');
                            word.char(c);
                        }
                    }
                }
                Some('$') => self.variable(word, true),
                Some(c) => {
                    self.next();
                    word.char(c);
                }
            }
        }
    }

    /// `$name`, `${name}`; a dollar that names nothing is a dollar.
    fn variable(&mut self, word: &mut Word, quoted: bool) {
        self.next();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let braced = self.rest.strip_prefix('{').and_then(|inner| {
            let (name, rest) = inner.split_once('}')?;
            let good = !name.is_empty() && !name.contains(char::is_whitespace);
            good.then_some((name, rest))
        });
        let plain = || {
            let first = self.rest.chars().next()?;
            let len = match first {
                '?' | '#' | '*' | '@' => 1,
                c if c.is_ascii_digit() => 1,
                c if is_name(c) => self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len()),
                _ => return None,
            };
            self.rest.split_at_checked(len)
        };
        match braced.or_else(plain) {
            Some((name, rest)) => {
                word.bare = false;
                let name = name.to_owned();
                word.pieces.push(Piece::Variable { name, quoted });
                self.rest = rest;
            }
            None => word.char('$'),
        }
    }
}

struct Word {
    pieces: Vec<Piece>,
    bare: bool,
}

impl Default for Word {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            bare: true,
        }
    }
}

impl Word {
    fn char(&mut self, c: char) {
        self.text(c.encode_utf8(&mut [0; 4]));
    }

    fn text(&mut self, more: &str) {
        match self.pieces.last_mut() {
            Some(Piece::Text(text)) => text.push_str(more),
            _ => self.pieces.push(Piece::Text(more.to_owned())),
        }
    }
}
