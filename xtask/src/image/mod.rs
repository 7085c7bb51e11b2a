//! The demo's container image: a base made of Debian packages, the operating
//! system of `templates/debian` on it, and the application of
//! `templates/debian-web` on that.
//!
//! Each of the three is named by a hash of all that went into it and is built
//! once; what is handed out is an OCI layout in `target/xtask/image`.

mod engine;
mod inputs;
mod mirror;
mod root;

pub(crate) use mirror::Mirror;

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::paths;
use engine::{BASE_CONTAINERFILE, Engine, SETTLE};
use inputs::Inputs;

/// The Debian release the image is made of.
const SUITE: &str = "trixie";

/// The tag in the OCI layout.
const TAG: &str = "debian";

/// An image that was built.
#[derive(Debug)]
pub(crate) struct Image {
    /// The folder of the OCI layout.
    pub(crate) layout: PathBuf,
    /// The image as bootwright and skopeo take it: `oci:DIR:TAG`.
    pub(crate) reference: String,
    /// Whether an earlier run had built it.
    pub(crate) cached: bool,
}

/// The demo's image, with version 1 of its application.
pub(crate) fn debian() -> Result<Image> {
    web(1)
}

/// The image with the given version of the application.
pub(crate) fn web(version: u32) -> Result<Image> {
    let templates = paths::workspace().join("templates");
    let mut base = Inputs::new("base");
    base.text(SUITE).text(BASE_CONTAINERFILE).text(SETTLE);
    base.text(mirror::UNSET);
    let mut system = Inputs::new("system");
    system.text(&base.tag()).dir(&templates.join("debian"))?;
    let mut app = Inputs::new("web");
    app.text(&system.tag()).dir(&templates.join("debian-web"))?;
    app.text(&version.to_string());

    let name = if version == 1 {
        "image".into()
    } else {
        format!("image-{version}")
    };
    let layout = paths::product(&name);
    let stamp = layout.with_extension("stamp");
    let image = |cached| Image {
        reference: format!("oci:{}:{TAG}", layout.display()),
        layout: layout.clone(),
        cached,
    };
    if layout.is_dir() && fs::read_to_string(&stamp).is_ok_and(|s| s == app.tag()) {
        return Ok(image(true));
    }

    let engine = Engine::new(SUITE)?;
    if !engine.has(&base.tag())? {
        engine.base(&base.tag())?;
    }
    if !engine.has(&system.tag())? {
        let from = format!("BASE={}", base.tag());
        engine.build(&system.tag(), &templates.join("debian"), &[from])?;
    }
    if !engine.has(&app.tag())? {
        let args = [
            format!("BASE={}", system.tag()),
            format!("VERSION={version}"),
        ];
        engine.build(&app.tag(), &templates.join("debian-web"), &args)?;
    }
    let _ = fs::remove_file(&stamp);
    engine.export(&app.tag(), &layout, TAG)?;
    fs::write(&stamp, app.tag())?;
    engine.tidy(&[base.tag(), system.tag(), app.tag()])?;
    Ok(image(false))
}
