//! `bootwright node`: the kubelet's device plugin.

use anyhow::Context as _;
use bootwright_node::{Event, Options};

use crate::args::NodeArgs;
use crate::interrupt::Interrupt;

/// Runs the command, until a signal comes.
pub(crate) fn node(args: &NodeArgs, interrupt: &Interrupt) -> anyhow::Result<()> {
    let options = Options {
        plugins: args.plugins.clone(),
        resource: args.resource.clone(),
        device: args.device.clone(),
        count: args.devices,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("cannot start")?;
    let (end, ended) = tokio::sync::mpsc::channel(1);
    let end = std::sync::Mutex::new(Some(end));
    // The first signal is the end; the sender goes, and with it the thread.
    interrupt.each(move || {
        end.lock().map(|mut end| end.take()).ok();
        false
    })?;
    let resource = options.resource.clone();
    let tell = move |event| match event {
        Event::Registered => eprintln!("the kubelet has taken {resource}"),
        Event::Refused(why) => eprintln!("warning: {why}"),
        Event::Usable(Ok(())) => eprintln!("{resource} can be used"),
        Event::Usable(Err(why)) => eprintln!("warning: {resource} cannot be used: {why}"),
    };
    runtime.block_on(async move {
        let mut ended: tokio::sync::mpsc::Receiver<()> = ended;
        tokio::select! {
            result = bootwright_node::run(options, tell) => Ok(result?),
            _ = ended.recv() => Ok(()),
        }
    })
}
