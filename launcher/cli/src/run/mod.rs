//! `bootwright run`, seen from the user's terminal: what is asked for becomes
//! a machine's folder ([`prepare`]), a process that runs it ([`launch`]), and
//! a console to look at ([`attach`]).

pub(crate) mod attach;
pub(crate) mod launch;
pub(crate) mod prepare;
pub(crate) mod root_disk;
mod terminal;
pub(crate) mod wait;
