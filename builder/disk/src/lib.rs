//! Disks as plans.
//!
//! A [`Plan`] says what every byte of a disk is: a literal, a range of a
//! [`Source`] file, or zero. This crate reads plans at any offset, lays out
//! GPT, and writes plans to [sinks](sink). It knows nothing of images,
//! networks or file systems, and is synchronous.

pub mod compare;
pub mod gpt;
pub mod ids;
pub mod nbd;
pub mod plan;
pub mod plan_file;
pub mod reader;
pub mod sink;
pub mod source;
mod vhdx;
mod zero;

pub use plan::{Content, Extent, Plan, PlanBuilder, PlanError, Source, SourceId, SourceKind};
pub use reader::{PlanReader, ReadAt};
pub use source::SourceReader;
