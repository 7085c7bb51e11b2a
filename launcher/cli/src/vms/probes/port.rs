//! The machine's end of the virtio ports on which a guest without a socket
//! device answers probes.
//!
//! In: connections of those who ask, and the guest's port. Out: to each, once
//! the guest has taken its question, a line that says so and then the answer,
//! as a socket device would. They are served one after the other, each for no
//! longer than its probe's timeout; what the guest says otherwise is skipped.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use super::{LONGEST, Until};

/// How long the guest may take to read a question, where the port is full; and
/// how much longer it is heard than who has asked waits, who is to give up
/// first.
const ROOM: Duration = Duration::from_secs(1);

/// How long what the guest has said before a question is read.
const MOMENT: Duration = Duration::from_millis(10);

/// Serves those who connect to `listener` with the guest's answers on `guest`,
/// each for at most `limit`, until the machine ends.
///
/// # Errors
/// If there is no thread for it.
pub(crate) fn serve(listener: UnixListener, guest: UnixStream, limit: Duration) -> io::Result<()> {
    guest.set_write_timeout(Some(ROOM))?;
    let end = Instant::now();
    let mut port = Port {
        lines: BufReader::new(Until { stream: guest, end }),
        asked: 0,
        taken: true,
    };
    thread::Builder::new().name("probe".into()).spawn(move || {
        for asker in listener.incoming().flatten() {
            match port.answer(asker, Instant::now() + limit + ROOM) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return,
                // Who has asked sees that there is no answer.
                Err(_) => {}
            }
        }
    })?;
    Ok(())
}

/// A guest's port.
struct Port {
    lines: BufReader<Until>,
    /// The number of the last question.
    asked: u64,
    /// Whether the guest has taken it.
    taken: bool,
}

impl Port {
    fn answer(&mut self, mut asker: UnixStream, end: Instant) -> io::Result<()> {
        asker.set_write_timeout(Some(ROOM))?;
        self.skip()?;
        // A number tells an answer from late ones to those who have given up.
        // A question that the guest has not taken yet is asked again by the
        // same: then it need not run the command for each of those first.
        if self.taken {
            self.asked += 1;
        }
        self.taken = false;
        let number = format!("{}\n", self.asked);
        self.lines.get_mut().end = end;
        let guest = &mut self.lines.get_mut().stream;
        guest.write_all(number.as_bytes())?;
        while self.line()? != number.as_bytes() {}
        self.taken = true;
        asker.write_all(format!("OK {number}").as_bytes())?;
        let mut answer = Vec::new();
        loop {
            let line = self.line()?;
            // More than there can be is told so by who has asked.
            if line == number.as_bytes() || answer.len() > LONGEST {
                break;
            }
            answer.extend(line);
        }
        answer.truncate(LONGEST + 1);
        asker.write_all(&answer)
    }

    /// Reads what the guest has said since the last question.
    fn skip(&mut self) -> io::Result<()> {
        self.lines.get_mut().end = Instant::now() + MOMENT;
        let number = format!("{}\n", self.asked);
        loop {
            match self.line() {
                Ok(line) => self.taken |= line == number.as_bytes(),
                Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next line, or a part of one that is too long.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let most = LONGEST as u64 + 1;
        match self
            .lines
            .by_ref()
            .take(most)
            .read_until(b'\n', &mut line)?
        {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);
    /// When nobody waits any more.
    const LATE: Duration = Duration::from_secs(2);

    fn ask(socket: &Path) -> String {
        let mut text = String::new();
        let mut stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// A port whose guest answers each question, by its number, like that.
    fn port(
        dir: &Path,
        mut guest: impl FnMut(&str, &mut UnixStream) + Send + 'static,
    ) -> std::path::PathBuf {
        let socket = dir.join("s");
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        serve(UnixListener::bind(&socket).unwrap(), ours, LIMIT).unwrap();
        thread::spawn(move || {
            let lines = BufReader::new(theirs.try_clone().unwrap()).lines();
            for line in lines.map_while(Result::ok) {
                guest(&line, &mut theirs);
            }
        });
        socket
    }

    #[test]
    fn each_question_has_its_own_answer() {
        let dir = tempfile::tempdir().unwrap();
        let socket = port(dir.path(), |n, guest| {
            let _ = write!(guest, "{n}\nout {n}\n\n0\n{n}\n");
        });
        for n in 1..20 {
            assert_eq!(ask(&socket), format!("OK {n}\nout {n}\n\n0\n"));
        }
    }

    #[test]
    fn late_answers_second_ones_and_noise_belong_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let socket = port(dir.path(), |n, guest| {
            let _ = match n {
                // Taken, and answered after who asked has given up.
                "1" => {
                    let taken = write!(guest, "noise\n1\n");
                    thread::sleep(LATE);
                    taken.and(write!(guest, "\n0\n1\n"))
                }
                // Twice, and then more than anybody reads.
                "2" => {
                    write!(guest, "2\n\n0\n2\n2\n\n1\n2\n").and(guest.write_all(&[b'x'; 1 << 20]))
                }
                n => write!(guest, "\n{n}\n\n5\n{n}\n"),
            };
        });
        assert_eq!(ask(&socket), "OK 1\n");
        thread::sleep(LATE);
        assert_eq!(ask(&socket), "OK 2\n\n0\n");
        assert_eq!(ask(&socket), "OK 3\n\n5\n");
    }

    #[test]
    fn what_was_asked_of_a_guest_that_boots_is_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let (ours, mut guest) = UnixStream::pair().unwrap();
        serve(UnixListener::bind(&socket).unwrap(), ours, LIMIT).unwrap();
        assert_eq!(ask(&socket), "");
        assert_eq!(ask(&socket), "");
        // It takes what has piled up, and answers after who asked has gone.
        let mut text = [0; 64];
        let count = guest.read(&mut text).unwrap();
        assert_eq!(&text[..count], b"1\n1\n");
        guest.write_all(b"1\nold\n\n0\n1\n").unwrap();
        let asker = thread::spawn(move || ask(&socket));
        let count = guest.read(&mut text).unwrap();
        assert_eq!(
            &text[..count],
            b"2\n",
            "the answer is older than the question"
        );
        guest.write_all(b"2\nnew\n\n0\n2\n").unwrap();
        assert_eq!(asker.join().unwrap(), "OK 2\nnew\n\n0\n");
    }

    #[test]
    fn an_answer_without_an_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let socket = port(dir.path(), |n, guest| {
            let _ = writeln!(guest, "{n}").and(guest.write_all(&[b'x'; 1 << 20]));
        });
        let since = Instant::now();
        assert_eq!(ask(&socket).len(), "OK 1\n".len() + LONGEST + 1);
        assert!(since.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_guest_that_reads_nothing_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let (ours, _theirs) = UnixStream::pair().unwrap();
        serve(UnixListener::bind(&socket).unwrap(), ours, LIMIT).unwrap();
        let since = Instant::now();
        for _ in 0..3 {
            assert_eq!(ask(&socket), "");
        }
        assert!(since.elapsed() < Duration::from_secs(10));
    }
}
