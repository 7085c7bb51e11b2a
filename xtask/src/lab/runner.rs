//! Running scenarios in one L1 and telling what became of each.
//!
//! The script that L1 runs says when each scenario begins and with which
//! status it ends; what is in between is its output. L1 ends a scenario that
//! takes too long and goes on with the next, so that one that hangs costs its
//! own time only.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::assets::Lab;
use super::machine::Machine;
use super::scenarios::{SCENARIOS, Scenario};
use super::served::Served;
use crate::proc;

/// The status with which busybox' `timeout` says that it sent SIGKILL.
const TIMED_OUT: u8 = 137;

/// Ends the lines that say which scenario begins and with which status it
/// ended. No guest prints the like.
const MARK: &str = "@lab";

/// Runs those whose name contains `words`.
pub(super) fn run(lab: &Lab, words: &str) -> Result<()> {
    let chosen = SCENARIOS.iter().filter(|s| s.name.contains(words));
    let chosen: Vec<_> = chosen.collect();
    if chosen.is_empty() {
        bail!("no scenario's name contains `{words}`");
    }
    let start = Instant::now();
    let served = match chosen.iter().any(|s| s.disk) {
        true => Some(Served::new()?),
        false => None,
    };
    let limits: u64 = chosen.iter().map(|s| s.limit).sum();
    let machine = Machine {
        limit: Duration::from_secs(60 + limits),
        disks: served.iter().map(Served::drive).collect(),
        ..Machine::default()
    };
    let mut tally = Tally::new(&chosen);
    let result = machine.run(lab, &script(&chosen), |output| {
        tally.read(output);
        Ok(())
    });
    proc::check_interrupt()?;
    let failed = tally.finish();
    let passed = chosen.len() - failed;
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("lab: {passed} passed, {failed} failed, {seconds:.0} s");
    result?;
    match failed {
        0 => Ok(()),
        _ => bail!("{failed} of {} scenarios failed in the lab", chosen.len()),
    }
}

/// What L1's shell runs.
fn script(scenarios: &[&Scenario]) -> String {
    let run = |(index, scenario): (usize, &&Scenario)| {
        // In a file of its own, so that `timeout` covers all of it, and in a
        // process group of its own, so that all of it can be ended.
        format!(
            "cat > /tmp/scenario <<'END'\n{}\nEND\n\
             echo '{MARK} {index} begin'\n\
             setsid timeout -s KILL {} sh /tmp/scenario &\n\
             leader=$!\n\
             wait $leader\n\
             echo \"{MARK} {index} $?\"\n\
             kill -KILL -$leader 2>/dev/null\n",
            scenario.command, scenario.limit
        )
    };
    scenarios.iter().enumerate().map(run).collect()
}

/// Reads what L1 says, and says what passed.
struct Tally<'a> {
    scenarios: &'a [&'a Scenario],
    /// The line that is not complete yet.
    line: Vec<u8>,
    /// Output of the scenario that runs, and since when it does.
    running: Option<(usize, String, Instant)>,
    passed: Vec<bool>,
}

impl<'a> Tally<'a> {
    fn new(scenarios: &'a [&'a Scenario]) -> Self {
        Self {
            scenarios,
            line: Vec::new(),
            running: None,
            passed: vec![false; scenarios.len()],
        }
    }

    fn read(&mut self, output: &[u8]) {
        for byte in output {
            self.line.push(*byte);
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.read_line(&String::from_utf8_lossy(&line));
            }
        }
    }

    fn read_line(&mut self, line: &str) {
        // A guest that ends in the middle of a line leaves its start before
        // the mark.
        let Some((before, mark)) = line.split_once(MARK) else {
            if let Some((_, output, _)) = &mut self.running {
                output.push_str(line);
            }
            return;
        };
        let mut words = mark.split_whitespace();
        let index = words.next().and_then(|word| word.parse::<usize>().ok());
        let (Some(index), Some(word)) = (index, words.next()) else {
            return;
        };
        let Ok(status) = word.parse::<u8>() else {
            self.running = Some((index, String::new(), Instant::now()));
            return;
        };
        if let Some((running, mut output, start)) = self.running.take()
            && let Some(scenario) = self.scenarios.get(index)
            && running == index
        {
            output.push_str(before);
            let result = check(scenario, status, &output);
            let word = if result.is_ok() { "ok" } else { "FAILED" };
            let seconds = start.elapsed().as_secs_f64();
            eprintln!("{word:<6} {seconds:>5.0} s  {}", scenario.name);
            if let Err(error) = &result {
                eprintln!("{error}");
            }
            self.passed[index] = result.is_ok();
        }
    }

    /// Says what did not end; returns how many did not pass.
    fn finish(self) -> usize {
        if let Some((index, output, _)) = &self.running
            && let Some(scenario) = self.scenarios.get(*index)
        {
            eprintln!("FAILED {} did not end:\n{output}", scenario.name);
        }
        self.passed.iter().filter(|passed| !**passed).count()
    }
}

/// Whether a scenario did what it must.
fn check(scenario: &Scenario, status: u8, output: &str) -> Result<()> {
    if status != scenario.status {
        let wanted = scenario.status;
        match status {
            TIMED_OUT => bail!("ended after {} s:\n{output}", scenario.limit),
            _ => bail!("its status is {status}, not {wanted}:\n{output}"),
        }
    }
    let mut rest = output;
    for line in scenario.lines {
        match rest.split_once(line) {
            Some((_, after)) => rest = after,
            None => bail!("`{line}` is missing, or comes too early:\n{output}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: [Scenario; 2] = [
        Scenario {
            name: "first",
            command: "one",
            status: 0,
            lines: &["a", "b"],
            limit: 150,
            disk: false,
        },
        Scenario {
            name: "second",
            command: "two",
            status: 34,
            lines: &[],
            limit: 7,
            disk: false,
        },
    ];

    fn failures(output: &str) -> usize {
        let two = [&TWO[0], &TWO[1]];
        let mut tally = Tally::new(&two);
        // In pieces, as it comes.
        output
            .as_bytes()
            .chunks(3)
            .for_each(|piece| tally.read(piece));
        tally.finish()
    }

    #[test]
    fn each_scenario_is_judged_by_its_own_output_and_status() {
        let first = "@lab 0 begin\na\nb\n@lab 0 0\n";
        let second = "@lab 1 begin\nno line end@lab 1 34\n";
        for (output, expected) in [
            (format!("{first}{second}"), 0),
            (first.to_owned(), 1),
            (String::new(), 2),
            (format!("{first}@lab 1 begin\n@lab 1 137\n"), 1),
            (format!("@lab 0 begin\nb\na\n@lab 0 0\n{second}"), 1),
            (format!("a\nb\n@lab 0 begin\n@lab 0 0\n{second}"), 1),
            (format!("{first}@lab 1 begin\n"), 1),
        ] {
            assert_eq!(failures(&output), expected, "{output}");
        }
    }

    #[test]
    fn the_script_runs_all_and_limits_each() {
        let script = script(&[&TWO[0], &TWO[1]]);
        for limit in ["timeout -s KILL 150 ", "timeout -s KILL 7 "] {
            assert_eq!(script.matches(limit).count(), 1, "{script}");
        }
        assert!(script.contains("\none\nEND\n") && script.contains("\ntwo\nEND\n"));
    }
}
