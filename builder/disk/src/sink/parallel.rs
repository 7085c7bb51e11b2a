//! Work on several threads, results in order.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::SinkError;

/// How many items each thread has before it and behind it: enough to keep it
/// busy, little enough to keep memory small.
const AHEAD: usize = 2;

/// Gives every item to `work` on one of `threads` threads and the results to
/// `take` on this one, in the items' order, so that what comes out does not
/// depend on how many threads there are. Each thread keeps the state that
/// `start` made for it.
///
/// # Errors
/// The first error, in the items' order, of `items`, `start`, `work` or
/// `take`; nothing is taken after it.
pub(super) fn in_order<I: Send, S, R: Send>(
    threads: usize,
    items: impl IntoIterator<Item = Result<I, SinkError>>,
    start: impl Fn() -> Result<S, SinkError> + Sync,
    work: impl Fn(&mut S, I) -> Result<R, SinkError> + Sync,
    mut take: impl FnMut(R) -> Result<(), SinkError>,
) -> Result<(), SinkError> {
    type Ends<I, R> = (SyncSender<I>, Receiver<Result<R, SinkError>>);
    thread::scope(|scope| {
        let workers: Vec<Ends<I, R>> = (0..threads.max(1))
            .map(|_| {
                let (to_worker, inbox) = sync_channel::<I>(AHEAD);
                let (outbox, from_worker) = sync_channel(AHEAD);
                let (start, work) = (&start, &work);
                scope.spawn(move || {
                    let mut state = match start() {
                        Ok(state) => state,
                        Err(error) => {
                            let _ = outbox.send(Err(error));
                            return;
                        }
                    };
                    for item in inbox {
                        // Nobody takes it: an error ended the whole.
                        if outbox.send(work(&mut state, item)).is_err() {
                            return;
                        }
                    }
                });
                (to_worker, from_worker)
            })
            .collect();

        let mut items = items.into_iter();
        let (mut sent, mut taken, mut more) = (0usize, 0usize, true);
        while more || taken < sent {
            if more && sent - taken < workers.len() * AHEAD {
                match items.next() {
                    None => more = false,
                    Some(item) => {
                        let item = item?;
                        if let Some((to_worker, _)) = workers.get(sent % workers.len()) {
                            // One that stopped has said why: seen below.
                            let _ = to_worker.send(item);
                        }
                        sent += 1;
                    }
                }
            } else if let Some((_, from_worker)) = workers.get(taken % workers.len()) {
                match from_worker.recv() {
                    Ok(result) => take(result?)?,
                    // It panicked; the scope passes that on.
                    Err(_) => return Ok(()),
                }
                taken += 1;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        for threads in [0, 1, 2, 7] {
            let mut taken = Vec::new();
            in_order(
                threads,
                (0..100u64).map(Ok),
                || Ok(()),
                |(), n| {
                    thread::sleep(std::time::Duration::from_micros(n * 7919 % 100));
                    Ok(n * 2)
                },
                |n| {
                    taken.push(n);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(taken, (0..100).map(|n| n * 2).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn the_first_error_ends_the_work() {
        let broken = |n: i32| SinkError::Read(io::Error::other(n.to_string()));
        let mut taken = Vec::new();
        let error = in_order(
            3,
            (0..).map(Ok),
            || Ok(()),
            |(), n| if n < 40 { Ok(n) } else { Err(broken(n)) },
            |n| {
                taken.push(n);
                Ok(())
            },
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "40");
        assert_eq!(taken.len(), 40);

        let error = in_order(
            2,
            (0..).map(|n| if n < 5 { Ok(n) } else { Err(broken(n)) }),
            || Err::<(), _>(SinkError::Cancelled),
            |(), n| Ok(n),
            |_| Ok(()),
        )
        .unwrap_err();
        assert!(matches!(error, SinkError::Cancelled));
    }
}
