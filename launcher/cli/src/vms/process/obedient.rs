//! A guest that does all that it is asked for, to try the control API with.

use std::sync::Mutex;
use std::time::Duration;

use super::control::{Guest, Metric, Status};

/// What it has come to.
#[derive(Debug, Default)]
pub(super) struct Obedient(Mutex<Has>);

#[derive(Debug, Default)]
struct Has {
    paused: bool,
    cpus: u8,
    memory: u64,
}

impl Obedient {
    fn now(&self) -> std::sync::MutexGuard<'_, Has> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Its processors and its memory.
    #[cfg(test)]
    pub(super) fn has(&self) -> (u8, u64) {
        let now = self.now();
        (now.cpus, now.memory)
    }
}

impl Guest for Obedient {
    fn power_button(&self) -> anyhow::Result<()> {
        Ok(())
    }

    fn kill(&self) -> anyhow::Result<()> {
        Ok(())
    }

    fn pause(&self) -> anyhow::Result<()> {
        self.now().paused = true;
        Ok(())
    }

    fn resume(&self) -> anyhow::Result<()> {
        self.now().paused = false;
        Ok(())
    }

    fn set_cpus(&self, count: u8) -> anyhow::Result<()> {
        self.now().cpus = count;
        Ok(())
    }

    fn set_memory(&self, bytes: u64) -> anyhow::Result<()> {
        self.now().memory = bytes;
        Ok(())
    }

    fn memory(&self) -> anyhow::Result<u64> {
        Ok(self.now().memory)
    }

    fn status(&self) -> anyhow::Result<(Status, u8)> {
        let now = self.now();
        let status = match now.paused {
            true => Status::Paused,
            false => Status::Running,
        };
        Ok((status, now.cpus))
    }

    fn stages(&self) -> Vec<(&'static str, Duration)> {
        Vec::new()
    }

    fn metrics(&self) -> anyhow::Result<Vec<Metric>> {
        Ok(Vec::new())
    }
}
