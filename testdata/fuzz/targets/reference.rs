//! An image reference: what parses prints as something that parses to the
//! same.
#![no_main]

use bootwright_image::ImageReference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    if let Ok(reference) = input.parse::<ImageReference>() {
        let text = reference.to_string();
        assert_eq!(
            text.parse::<ImageReference>().as_ref(),
            Ok(&reference),
            "{text}"
        );
    }
});
