//! What an artifact is a referrer of: the image that it was made from.

use anyhow::{Context as _, bail};
use bootwright_delivery::oci::Descriptor;
use bootwright_image::ImageReference;
use bootwright_image::manifest::OCI_MANIFEST;
use bootwright_image::registry::Registry;
use bootwright_image::source::Observer;

use super::destination::Destination;
use crate::args::PushArgs;
use crate::image::{self, Loaded};
use crate::interrupt::Interrupt;
use crate::progress::Messages;

/// Describes the manifest of the image, which the registry keeps referrers of
/// only in its own repository.
pub(super) fn find(
    args: &PushArgs,
    destination: &Destination,
    loaded: &Loaded,
    messages: &Messages,
    interrupt: &Interrupt,
) -> anyhow::Result<Descriptor> {
    let digest = loaded.report.digest.as_deref();
    let (Destination::Registry(to), ImageReference::Registry(from), Some(digest)) =
        (destination, args.target.parse()?, digest)
    else {
        bail!("--refer: IMAGE and REFERENCE are to be in one repository of a registry");
    };
    if (from.registry(), from.repository()) != (to.registry(), to.repository()) {
        bail!(
            "--refer: {from} is in another repository than {to}; a registry lists referrers of what \
             is in the same repository"
        );
    }
    let options = image::registry_options(&args.image.registry);
    let watch = Watch(messages, interrupt);
    let bytes = Registry::new(from, &options)
        .manifest_at(digest, &watch)?
        .with_context(|| format!("--refer: the registry does not have {digest} any more"))?;
    let manifest: serde_json::Value = serde_json::from_slice(&bytes)?;
    let media_type = manifest["mediaType"].as_str().unwrap_or(OCI_MANIFEST);
    Ok(Descriptor::new(
        media_type,
        digest.parse()?,
        bytes.len() as u64,
    ))
}

struct Watch<'a>(&'a Messages, &'a Interrupt);

impl Observer for Watch<'_> {
    fn retrying(&self, message: &str) {
        self.0.warn(message);
    }

    fn cancelled(&self) -> bool {
        self.1.raised()
    }
}
