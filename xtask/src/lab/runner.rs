//! Running scenarios in one L1 and telling what became of each.
//!
//! The script that L1 runs has as many lanes as L1 has processors; each takes
//! the next scenario until there is none. It says when a scenario begins, then
//! with its output how it ended. L1 ends a scenario that takes too long and
//! goes on with the next, so that one that hangs costs its own time only.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::assets::Lab;
use super::disk;
use super::machine::Machine;
use super::scenarios::{SCENARIOS, Scenario};
use crate::proc;

/// The status with which busybox' `timeout` says that it sent SIGKILL.
const TIMED_OUT: u8 = 137;

/// Starts the lines that say which scenario begins, has said what follows, and
/// with which status it ended. No guest prints the like.
const MARK: &str = "@lab";

/// Makes a machine that never begins, to stand beside those that are booted. With
/// the first machine that there is, and the first whose APIC is not enabled yet,
/// L1's KVM changes its own code, and back with the last: at each boot, that is.
/// QEMU can miss that while another processor is in that code, and L1 then hangs
/// (seen with 7.2).
pub(crate) const STILL: &str = r#"
truncate -s 1M /tmp/still.raw
XDG_STATE_HOME=/tmp/state/still XDG_RUNTIME_DIR=/tmp/run bootwright run /tmp/still.raw --quiet \
  --network none --cpus 1 --memory 64M --kernel bookworm.vmlinuz --append quiet --name still \
  --paused --detach < /dev/null || exit
"#;

/// Has two lanes work off what is in /tmp/scenario. Machines that a scenario
/// has left are removed, and what their processes said is part of its output.
const LANES: &str = r#"
echo 0 > /tmp/next
alone() { while ! mkdir /tmp/alone 2>/dev/null; do sleep 0.02; done; "$@"; rmdir /tmp/alone; }
next() { cat /tmp/next; echo $(($(cat /tmp/next) + 1)) > /tmp/next; }
tell() { echo "@lab $1 output"; cat /tmp/out/$1; echo; cat /tmp/status/$1; }
tidy() { for vm in $(ls $XDG_STATE_HOME/bootwright/vms 2>/dev/null); do
  tail -n 5 $XDG_STATE_HOME/bootwright/vms/$vm/vm.log; bootwright rm --force $vm; done; }
lane() {
  while n=$(alone next); [ -e /tmp/scenario/$n ]; do
    export XDG_STATE_HOME=/tmp/state/$n XDG_RUNTIME_DIR=/tmp/run/$n
    mkdir -p $XDG_STATE_HOME $XDG_RUNTIME_DIR
    alone echo "@lab $n begin"
    setsid timeout -s KILL $(cat /tmp/limit/$n) sh -c ". /lab/help; . /tmp/scenario/$n" \
      > /tmp/out/$n 2>&1 < /dev/null &
    leader=$!; wait $leader; echo "@lab $n $?" > /tmp/status/$n
    tidy >> /tmp/out/$n 2>&1; kill -KILL -$leader 2>/dev/null
    alone tell $n
    rm -rf $XDG_STATE_HOME
  done
}
lane & lane & wait
"#;

/// Runs those whose name contains `words`.
pub(super) fn run(lab: &Lab, words: &str) -> Result<()> {
    let chosen = SCENARIOS.iter().filter(|s| s.name.contains(words));
    let chosen: Vec<_> = chosen.collect();
    if chosen.is_empty() {
        bail!("no scenario's name contains `{words}`");
    }
    let start = Instant::now();
    let disks = match chosen.iter().any(|s| s.disk) {
        true => disk::make(lab, chosen.iter().any(|s| s.pod))?,
        false => Vec::new(),
    };
    let limits: u64 = chosen.iter().map(|s| s.limit).sum();
    let machine = Machine {
        limit: Duration::from_secs(60 + limits),
        disks,
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
    let mut script =
        String::from("cd /tmp; mkdir scenario limit out status state run cache; cd /lab\n");
    for (index, scenario) in scenarios.iter().enumerate() {
        // In a file of its own, so that `timeout` covers all of it, and in a
        // process group of its own, so that all of it can be ended.
        script += &format!(
            "cat > /tmp/scenario/{index} <<'END'\n{}\nEND\n\
             echo {} > /tmp/limit/{index}\n",
            scenario.command, scenario.limit
        );
    }
    script + STILL + LANES
}

/// Reads what L1 says, and says what passed.
struct Tally<'a> {
    scenarios: &'a [&'a Scenario],
    /// The line that is not complete yet.
    line: Vec<u8>,
    /// Since when scenarios run that have not ended.
    running: BTreeMap<usize, Instant>,
    /// The scenario whose output is coming, and what has come.
    telling: Option<(usize, String)>,
    passed: Vec<bool>,
}

impl<'a> Tally<'a> {
    fn new(scenarios: &'a [&'a Scenario]) -> Self {
        Self {
            scenarios,
            line: Vec::new(),
            running: BTreeMap::new(),
            telling: None,
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
        let Some(mark) = line.strip_prefix(MARK) else {
            if let Some((_, output)) = &mut self.telling {
                output.push_str(line);
            }
            return;
        };
        let mut words = mark.split_whitespace();
        let index = words.next().and_then(|word| word.parse::<usize>().ok());
        let (Some(index), Some(word)) = (index, words.next()) else {
            return;
        };
        match (word, word.parse::<u8>()) {
            ("begin", _) => drop(self.running.insert(index, Instant::now())),
            ("output", _) => self.telling = Some((index, String::new())),
            (_, Ok(status)) => self.judge(index, status),
            _ => {}
        }
    }

    fn judge(&mut self, index: usize, status: u8) {
        let (Some(scenario), Some(start)) =
            (self.scenarios.get(index), self.running.remove(&index))
        else {
            return;
        };
        let Some((_, output)) = self.telling.take_if(|(telling, _)| *telling == index) else {
            return;
        };
        let result = check(scenario, status, &output);
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{word:<6} {seconds:>5.0} s  {}", scenario.name);
        if let Err(error) = &result {
            eprintln!("{error}");
        }
        self.passed[index] = result.is_ok();
    }

    /// Says what did not end; returns how many did not pass.
    fn finish(self) -> usize {
        for index in self.running.keys() {
            if let Some(scenario) = self.scenarios.get(*index) {
                eprintln!("FAILED {} did not end", scenario.name);
            }
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
            pod: false,
        },
        Scenario {
            name: "second",
            command: "two",
            status: 34,
            lines: &[],
            limit: 7,
            disk: false,
            pod: false,
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
        let begin = "@lab 0 begin\n@lab 1 begin\n";
        let first = "@lab 0 output\na\nb\n\n@lab 0 0\n";
        let second = "@lab 1 output\nno line end\n@lab 1 34\n";
        for (output, expected) in [
            (format!("{begin}{first}{second}"), 0),
            (format!("{begin}{second}{first}"), 0),
            (format!("{begin}{first}"), 1),
            (begin.to_owned(), 2),
            (format!("{first}{second}"), 2),
            (String::new(), 2),
            (format!("{begin}{first}@lab 1 output\n@lab 1 137\n"), 1),
            (format!("{begin}@lab 0 output\nb\na\n@lab 0 0\n{second}"), 1),
            (format!("{begin}a\nb\n@lab 0 output\n@lab 0 0\n{second}"), 1),
            (format!("{begin}{first}@lab 1 34\n"), 1),
        ] {
            assert_eq!(failures(&output), expected, "{output}");
        }
    }

    #[test]
    fn the_script_runs_all_and_limits_each() {
        let script = script(&[&TWO[0], &TWO[1]]);
        for (index, limit) in [(0, 150), (1, 7)] {
            let line = format!("echo {limit} > /tmp/limit/{index}\n");
            assert_eq!(script.matches(&line).count(), 1, "{script}");
        }
        assert!(script.contains("\none\nEND\n") && script.contains("\ntwo\nEND\n"));
    }
}
