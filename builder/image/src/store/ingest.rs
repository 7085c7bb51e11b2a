//! Adding a layer: from the blob to a pack and an index in one pass.
//!
//! Two threads share the work. One reads, hashes and decompresses the blob;
//! the other hashes and parses the tar and writes the pack. They hand a few
//! buffers back and forth, so a layer of any length takes the same memory.
//! Nothing gets its final name before both digests are right.

use std::io::{self, BufRead as _, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::build::{IndexBuilder, Summary};
use super::decompress::{BlobReader, Compression, Decoder, Failure};
use super::error::is_full;
use super::index::Index;
use super::lock::TempFile;
use super::pack::PackWriter;
use super::skeleton::SkeletonWriter;
use super::{BlobInfo, Layer, Store, StoreError};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::layer::Segment;
use crate::tar::{Limits, Member, Reader, Sink, TarError};

/// Bytes of the tar that are handed over at once.
const BUFFER: usize = 256 << 10;
/// How many such buffers there are.
const BUFFERS: usize = 4;

impl Store {
    /// Reads a layer from its blob into the store, and hands it out.
    ///
    /// Where another thread or process is adding the same layer, this waits
    /// for it and hands out the layer that it added, without ever reading from
    /// `reader`; so open what is behind it on the first read. How the blob is
    /// compressed (not at all, gzip, zstd) shows in its first bytes.
    /// `progress` is told the number of bytes of the blob read since it was
    /// last called.
    ///
    /// # Errors
    /// The blob cannot be read, is not what its digest, its size or the diff
    /// id say, is no tar or over a limit; or the store cannot be written.
    /// Nothing is left behind then.
    pub fn add_layer(
        &self,
        diff_id: &Digest,
        blob: &BlobInfo,
        reader: impl Read + Send,
        limits: &Limits,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Layer, StoreError> {
        // Held to the end: whoever comes second finds the layer.
        let _lock = TempFile::create(&self.lock_path(diff_id), &self.interrupt)?;
        if let Some(layer) = self.layer_locked(diff_id)? {
            return Ok(layer);
        }
        let pack = TempFile::create(&self.temp_path(diff_id, "pack"), &self.interrupt)?;
        let skeleton = TempFile::create(&self.temp_path(diff_id, "skeleton"), &self.interrupt)?;
        let ingest = Ingest {
            store: self,
            diff_id,
            blob,
            limits,
            fatal: AtomicBool::new(false),
        };
        let index = ingest.run(reader, &pack, &skeleton, progress)?;
        let mut temp = TempFile::create(&self.temp_path(diff_id, "index"), &self.interrupt)?;
        io::Write::write_all(&mut temp.file, index.as_bytes())
            .map_err(|error| ingest.write_error(error))?;
        if self.boot.is_none() {
            // No later boot could be told from this one.
            for file in [&pack.file, &skeleton.file, &temp.file] {
                file.sync_data()
                    .map_err(|error| ingest.write_error(error))?;
            }
        }
        self.commit(diff_id, pack, skeleton, temp, index)
    }
}

/// One layer on its way.
struct Ingest<'a> {
    store: &'a Store,
    diff_id: &'a Digest,
    blob: &'a BlobInfo,
    limits: &'a Limits,
    /// Raised where what is left of the blob does not matter any more.
    fatal: AtomicBool,
}

/// What the reading side found.
struct BlobSeen {
    len: u64,
    digest: Digest,
}

/// What the writing side made.
struct Written {
    builder: IndexBuilder,
    tar_len: u64,
    /// `None` where the blob's digest says it.
    diff_id: Option<Digest>,
    pack_len: u64,
    chunk_sums: Vec<u32>,
    skeleton_sum: u32,
}

/// What goes from the reading to the writing side.
struct Piece {
    bytes: Vec<u8>,
    len: usize,
    /// The blob is the tar itself, so its digest is the diff id.
    hashed: bool,
}

/// Why the writing side gave up.
enum WriteError {
    Tar(TarError),
    Io(io::Error),
}

impl From<TarError> for WriteError {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

impl Ingest<'_> {
    fn run(
        &self,
        reader: impl Read + Send,
        pack: &TempFile,
        skeleton: &TempFile,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Index, StoreError> {
        let (full, to_write) = sync_channel::<Piece>(BUFFERS);
        let (empty, to_fill) = sync_channel::<Vec<u8>>(BUFFERS);
        for _ in 0..BUFFERS {
            // There is room for all.
            let _ = empty.send(vec![0; BUFFER]);
        }
        let (seen, written) = thread::scope(|scope| {
            let reading = scope.spawn(move || self.read(reader, &full, &to_fill, progress));
            let written = self.write(pack, skeleton, to_write, empty);
            let seen = reading
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (seen, written)
        });
        // A blob that is not the right one explains all other errors, except
        // those that have nothing to do with it.
        let (seen, written) = match (seen, written) {
            (_, Err(WriteError::Io(error))) => return Err(self.write_error(error)),
            (_, Err(WriteError::Tar(error @ TarError::Limit { .. }))) => {
                return Err(self.tar_error(error));
            }
            (Err(error), _) => return Err(error),
            (Ok(_), Err(WriteError::Tar(error))) => return Err(self.tar_error(error)),
            (Ok(seen), Ok(written)) => (seen, written),
        };
        let actual = written.diff_id.as_ref().unwrap_or(&seen.digest);
        if actual != self.diff_id {
            return Err(StoreError::DiffId {
                blob: seen.digest.clone(),
                expected: self.diff_id.clone(),
                actual: actual.clone(),
            });
        }
        let bytes = written.builder.finish(&Summary {
            diff_id: self.diff_id,
            blob: &seen.digest,
            blob_len: seen.len,
            tar_len: written.tar_len,
            pack_len: written.pack_len,
            chunk_sums: &written.chunk_sums,
            skeleton_sum: written.skeleton_sum,
            written_under: self.store.boot.unwrap_or_default(),
        });
        Index::parse(bytes).map_err(|error| StoreError::Tar {
            layer: self.name(),
            error: TarError::entry(b"", format!("its index would not be valid: {error}")),
        })
    }

    /// The reading side: blob to tar.
    fn read(
        &self,
        reader: impl Read,
        full: &SyncSender<Piece>,
        empty: &Receiver<Vec<u8>>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<BlobSeen, StoreError> {
        let expected = self.blob.digest.as_ref();
        let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
        let interrupted = || self.store.interrupt.raised();
        let hasher = Hasher::new(algorithm);
        let mut blob = BlobReader::new(reader, hasher, self.blob.size, progress, &interrupted);
        let result = self.decompress(&mut blob, algorithm, full, empty);
        // Even of content that is no good the digest says whose fault it is.
        if !self.fatal.load(Ordering::Relaxed) {
            blob.drain();
        }
        match blob.take_failure() {
            Some(Failure::Interrupted) => return Err(StoreError::Interrupted),
            Some(Failure::Read(error)) => {
                let layer = self.name();
                return Err(StoreError::Read { layer, error });
            }
            Some(Failure::TooLong) | None => {}
        }
        let (len, digest) = blob.finish();
        if let Some(expected) = self.blob.size.filter(|&expected| expected != len) {
            return Err(StoreError::BlobSize {
                layer: self.name(),
                expected,
                actual: len,
            });
        }
        if let Some(expected) = expected.filter(|&expected| *expected != digest) {
            return Err(StoreError::BlobDigest {
                expected: expected.clone(),
                actual: digest,
            });
        }
        result.map_err(|reason| StoreError::Compression {
            layer: self.name(),
            reason,
        })?;
        Ok(BlobSeen { len, digest })
    }

    fn decompress<R: Read>(
        &self,
        blob: &mut BlobReader<'_, R>,
        algorithm: Algorithm,
        full: &SyncSender<Piece>,
        empty: &Receiver<Vec<u8>>,
    ) -> Result<(), String> {
        let start = blob.fill_buf().map_err(|error| error.to_string())?;
        let compression = Compression::of(start)
            .map_err(|name| format!("it is compressed with {name}, which no OCI layer is"))?;
        let hashed = compression == Compression::None && algorithm == self.diff_id.algorithm();
        let mut decoder = Decoder::new(blob, compression, self.limits.max_zstd_window_log)
            .map_err(|error| error.to_string())?;
        // The other side hangs up when it gives up.
        while let Ok(mut bytes) = empty.recv() {
            let len = decoder
                .fill(&mut bytes)
                .map_err(|error| error.to_string())?;
            if len == 0 || full.send(Piece { bytes, len, hashed }).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The writing side: tar to pack, skeleton and index.
    fn write(
        &self,
        pack: &TempFile,
        skeleton: &TempFile,
        full: Receiver<Piece>,
        empty: SyncSender<Vec<u8>>,
    ) -> Result<Written, WriteError> {
        // Dropping the channels at the end is what stops the other side.
        let result = self.write_pieces(pack, skeleton, &full, &empty);
        let malformed = |error: &WriteError| matches!(error, WriteError::Tar(e) if !matches!(e, TarError::Limit { .. }));
        if result.as_ref().is_err_and(|error| !malformed(error)) {
            self.fatal.store(true, Ordering::Relaxed);
        }
        result
    }

    fn write_pieces(
        &self,
        pack: &TempFile,
        skeleton: &TempFile,
        full: &Receiver<Piece>,
        empty: &SyncSender<Vec<u8>>,
    ) -> Result<Written, WriteError> {
        let mut hasher = Some(Hasher::new(self.diff_id.algorithm()));
        let mut reader = Reader::new(*self.limits);
        let mut layer = LayerWriter {
            pack: PackWriter::new(&pack.file),
            skeleton: SkeletonWriter::new(&skeleton.file).map_err(WriteError::Io)?,
            builder: IndexBuilder::default(),
            segments: Vec::new(),
            limits: self.limits,
        };
        let mut tar_len: u64 = 0;
        while let Ok(piece) = full.recv() {
            let bytes = piece.bytes.get(..piece.len).unwrap_or_default();
            tar_len += bytes.len() as u64;
            if tar_len > self.limits.max_layer_bytes {
                return Err(layer.too_long().into());
            }
            match &mut hasher {
                _ if piece.hashed => hasher = None,
                Some(hasher) => hasher.update(bytes),
                None => {}
            }
            reader.feed(bytes, &mut layer)?;
            // The other side may be at its end.
            let _ = empty.send(piece.bytes);
        }
        reader.finish()?;
        let skeleton_sum = layer.skeleton.finish().map_err(WriteError::Io)?;
        let (pack_len, chunk_sums) = layer.pack.finish().map_err(WriteError::Io)?;
        Ok(Written {
            builder: layer.builder,
            tar_len,
            diff_id: hasher.map(Hasher::finish),
            pack_len,
            chunk_sums,
            skeleton_sum,
        })
    }

    /// How the layer is called in errors.
    fn name(&self) -> Digest {
        self.blob.digest.as_ref().unwrap_or(self.diff_id).clone()
    }

    fn tar_error(&self, error: TarError) -> StoreError {
        let layer = self.name();
        StoreError::Tar { layer, error }
    }

    fn write_error(&self, error: io::Error) -> StoreError {
        let path = self.store.path().to_owned();
        if is_full(&error) {
            let layer = self.name();
            return StoreError::DiskFull { layer, path };
        }
        StoreError::io("write to", &path)(error)
    }
}

/// Writes what the tar's reader reads.
struct LayerWriter<'a> {
    pack: PackWriter<'a>,
    skeleton: SkeletonWriter<'a>,
    builder: IndexBuilder,
    segments: Vec<Segment>,
    limits: &'a Limits,
}

impl LayerWriter<'_> {
    fn too_long(&self) -> TarError {
        TarError::Limit {
            limit: self.limits.max_layer_bytes,
            what: "bytes when unpacked",
            option: "--max-layer-size",
        }
    }
}

impl Sink for LayerWriter<'_> {
    type Error = WriteError;

    fn member(&mut self, member: &Member) -> Result<(), WriteError> {
        let end = self.pack.begin(&member.runs, &mut self.segments);
        if end.is_none_or(|end| end > self.limits.max_layer_bytes) {
            return Err(self.too_long().into());
        }
        self.skeleton.places(self.pack.places());
        Ok(self.builder.add(member, &self.segments, self.limits)?)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.skeleton.data().map_err(WriteError::Io)?;
        self.pack.data(bytes).map_err(WriteError::Io)
    }

    fn structure(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.skeleton.literal(bytes).map_err(WriteError::Io)
    }
}
