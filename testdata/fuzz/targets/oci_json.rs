//! The JSON documents of an image: manifest, index, config.
#![no_main]

use bootwright_image::ImageConfig;
use bootwright_image::manifest::{Document, Index};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = Document::parse(input, None);
    let _ = Index::parse(input);
    let _ = ImageConfig::parse(input);
});
