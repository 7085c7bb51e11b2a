//! Compressed clusters.

use std::io::Read;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};

use super::header::Method;

/// The largest window that a zstd frame may ask for, as a power of two: four
/// clusters of the largest size.
const MAX_ZSTD_WINDOW: u32 = 23;

/// Clusters that are kept: reads of less than a cluster come in a row.
const KEPT: usize = 8;

/// The clusters that were expanded last, by where they are in the file.
#[derive(Debug, Default)]
pub(super) struct Expanded(Mutex<Vec<(u64, Bytes)>>);

impl Expanded {
    pub(super) fn get(&self, offset: u64) -> Option<Bytes> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().find(|(at, _)| *at == offset);
        found.map(|(_, bytes)| bytes.clone())
    }

    pub(super) fn put(&self, offset: u64, bytes: Bytes) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((offset, bytes));
    }
}

/// Expands `data` to exactly `len` bytes; `None` if it is not so many. What
/// follows in `data` is padding.
pub(super) fn expand(method: Method, data: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    let whole = match method {
        Method::Zlib => inflate(data, &mut bytes),
        Method::Zstd => unzstd(data, &mut bytes),
    };
    whole.then_some(bytes)
}

fn inflate(data: &[u8], bytes: &mut [u8]) -> bool {
    let mut inflater = Decompress::new(false);
    let status = inflater.decompress(data, bytes, FlushDecompress::Finish);
    matches!(
        status,
        Ok(Status::StreamEnd | Status::Ok | Status::BufError)
    ) && inflater.total_out() == bytes.len() as u64
}

fn unzstd(data: &[u8], bytes: &mut [u8]) -> bool {
    let Ok(decoder) = zstd::stream::read::Decoder::with_buffer(data) else {
        return false;
    };
    let mut decoder = decoder.single_frame();
    decoder.window_log_max(MAX_ZSTD_WINDOW).is_ok() && decoder.read_exact(bytes).is_ok()
}
