//! The first half of a conversation ("Newstyle negotiation", "Option types").

use std::io::{Read, Write};

use super::wire::{
    FIXED_NEWSTYLE, MAGIC, Message, NO_ZEROES, OPTION_MAGIC, OPTION_REPLY_MAGIC, answer, flag, get,
    info, option,
};
use super::{Agreed, Export, MAX_READ, NbdError, SECTOR};

/// The longest data of an option that is taken, in bytes: names have at most
/// 4096, and nobody asks for many things at once.
const MAX_OPTION: u32 = 64 << 10;

/// Options that a client may bring before it has to come to the point.
const MAX_OPTIONS: u32 = 1000;

/// What reads best.
const PREFERRED_BLOCK: u32 = 64 << 10;

/// The one metadata context there is ("The `base:` metadata namespace").
const ALLOCATION: &[u8] = b"base:allocation";
pub(super) const ALLOCATION_ID: u32 = 0;

/// Haggles until the client wants to read, or leaves (`None`).
pub(super) fn haggle(
    input: &mut dyn Read,
    output: &mut dyn Write,
    export: &Export<'_>,
) -> Result<Option<Agreed>, NbdError> {
    let hello = Message::default()
        .u64(MAGIC)
        .u64(OPTION_MAGIC)
        .u16(FIXED_NEWSTYLE | NO_ZEROES);
    output.write_all(&hello.0)?;
    let flags: u32 = get(input)?;
    if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
        return Err(NbdError::Protocol("it has flags that nobody offered"));
    }
    let mut session = Session {
        output,
        export,
        zeroes: flags & u32::from(NO_ZEROES) == 0,
        agreed: Agreed::default(),
        context_of: None,
    };
    for _ in 0..MAX_OPTIONS {
        if get::<u64>(input)? != OPTION_MAGIC {
            return Err(NbdError::Protocol("an option without its magic number"));
        }
        let (option, len): (u32, u32) = (get(input)?, get(input)?);
        if len > MAX_OPTION {
            return Err(NbdError::Protocol("an option of too many bytes"));
        }
        let mut data = vec![0; len as usize];
        input.read_exact(&mut data)?;
        match session.option(option, &data)? {
            Next::Option => {}
            Next::Transmission => return Ok(Some(session.agreed)),
            Next::Leave => return Ok(None),
        }
    }
    Err(NbdError::Protocol("options without end"))
}

/// What comes after an option.
enum Next {
    Option,
    Transmission,
    Leave,
}

struct Session<'s, 'e> {
    output: &'s mut dyn Write,
    export: &'s Export<'e>,
    /// The client wants the padding of the oldest clients.
    zeroes: bool,
    agreed: Agreed,
    /// The name of the export that metadata contexts were set for.
    context_of: Option<Vec<u8>>,
}

impl Session<'_, '_> {
    fn option(&mut self, option: u32, data: &[u8]) -> Result<Next, NbdError> {
        match option {
            option::EXPORT_NAME => return self.export_name(data),
            option::ABORT => {
                // The client may be gone already.
                let _ = self.reply(option, answer::ACK, &[]);
                return Ok(Next::Leave);
            }
            option::LIST if data.is_empty() => {
                let name = self.export.name.as_bytes();
                let server = Message::default().u32(name.len() as u32).bytes(name);
                self.reply(option, answer::SERVER, &server.0)?;
                self.reply(option, answer::ACK, &[])?;
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.agreed.structured = true;
                self.reply(option, answer::ACK, &[])?;
            }
            option::LIST | option::STRUCTURED_REPLY => {
                self.reply(option, answer::ERR_INVALID, b"it has no data")?;
            }
            option::INFO | option::GO => return self.info(option, data),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, data)?,
            _ => self.reply(option, answer::ERR_UNSUP, b"")?,
        }
        Ok(Next::Option)
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> Result<(), NbdError> {
        let message = Message::default()
            .u64(OPTION_REPLY_MAGIC)
            .u32(option)
            .u32(kind)
            .u32(data.len() as u32)
            .bytes(data);
        Ok(self.output.write_all(&message.0)?)
    }

    fn is_known(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.export.name.as_bytes()
    }

    fn flags(&self) -> u16 {
        let fragments = if self.agreed.structured {
            flag::SEND_DF
        } else {
            0
        };
        let change = match self.export.writer {
            Some(_) => flag::SEND_TRIM | flag::SEND_WRITE_ZEROES,
            None => flag::READ_ONLY,
        };
        // All connections see the same disk, and flush all of it.
        flag::HAS_FLAGS
            | change
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::CAN_MULTI_CONN
            | fragments
    }

    fn export_name(&mut self, name: &[u8]) -> Result<Next, NbdError> {
        // There is no way to say no but to leave.
        if !self.is_known(name) {
            return Err(NbdError::Protocol("it wants an export that is not here"));
        }
        let mut message = Message::default()
            .u64(self.export.disk.size())
            .u16(self.flags());
        if self.zeroes {
            message = message.bytes(&[0; 124]);
        }
        self.output.write_all(&message.0)?;
        self.start(name);
        Ok(Next::Transmission)
    }

    /// Contexts hold for the export that they were set for.
    fn start(&mut self, name: &[u8]) {
        self.agreed.allocation &= self.context_of.as_deref() == Some(name);
    }

    fn info(&mut self, option: u32, data: &[u8]) -> Result<Next, NbdError> {
        let mut data = Data(data);
        let asked = (|| {
            let name = data.string()?;
            let count = data.u16()?;
            let wanted: Vec<u16> = (0..count).map(|_| data.u16()).collect::<Option<_>>()?;
            data.0.is_empty().then_some((name, wanted))
        })();
        let Some((name, wanted)) = asked else {
            self.reply(option, answer::ERR_INVALID, b"it is cut short")?;
            return Ok(Next::Option);
        };
        if !self.is_known(name) {
            self.reply(option, answer::ERR_UNKNOWN, b"there is no such export")?;
            return Ok(Next::Option);
        }
        let about = Message::default()
            .u16(info::EXPORT)
            .u64(self.export.disk.size())
            .u16(self.flags());
        self.reply(option, answer::INFO, &about.0)?;
        // Also to those who did not ask: it bounds what they may ask for.
        let blocks = Message::default()
            .u16(info::BLOCK_SIZE)
            .u32(self.export.writer.map_or(1, |_| SECTOR))
            .u32(PREFERRED_BLOCK)
            .u32(MAX_READ);
        self.reply(option, answer::INFO, &blocks.0)?;
        for (kind, text) in [
            (info::NAME, self.export.name),
            (info::DESCRIPTION, self.export.description),
        ] {
            if wanted.contains(&kind) {
                let text = Message::default().u16(kind).bytes(text.as_bytes());
                self.reply(option, answer::INFO, &text.0)?;
            }
        }
        self.reply(option, answer::ACK, &[])?;
        if option == option::INFO {
            return Ok(Next::Option);
        }
        self.start(name);
        Ok(Next::Transmission)
    }

    fn contexts(&mut self, option: u32, data: &[u8]) -> Result<(), NbdError> {
        let set = option == option::SET_META_CONTEXT;
        if set {
            self.agreed.allocation = false;
            self.context_of = None;
        }
        let mut data = Data(data);
        let asked = (|| {
            let name = data.string()?;
            let count = data.u32()?;
            let mut found = count == 0 && !set;
            for _ in 0..count {
                let query = data.string()?;
                // The namespace alone lists what is in it, and sets nothing.
                found |= query == ALLOCATION || (query == b"base:" && !set);
            }
            data.0.is_empty().then_some((name, found))
        })();
        let Some((name, found)) = asked else {
            return self.reply(option, answer::ERR_INVALID, b"it is cut short");
        };
        if set && !self.agreed.structured {
            let why = b"structured replies come first";
            return self.reply(option, answer::ERR_INVALID, why);
        }
        if !self.is_known(name) {
            return self.reply(option, answer::ERR_UNKNOWN, b"there is no such export");
        }
        if found {
            let context = Message::default().u32(ALLOCATION_ID).bytes(ALLOCATION);
            self.reply(option, answer::META_CONTEXT, &context.0)?;
        }
        if set {
            self.agreed.allocation = found;
            self.context_of = Some(name.to_vec());
        }
        self.reply(option, answer::ACK, &[])
    }
}

/// The data of an option, taken from its start.
struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|b| u16::from_be_bytes(*b))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().map(|b| u32::from_be_bytes(*b))
    }

    /// A length and so many bytes.
    fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }
}
