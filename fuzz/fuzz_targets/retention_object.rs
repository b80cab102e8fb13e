//! What retention stores: manifests, and of map layers directory, pages and marks. Any bytes are refused or sound.
#![no_main]

use everpoint_format::layer::LayerDirectory;
use everpoint_format::layer::marks::Marks;
use everpoint_format::layer::page::Page;
use everpoint_format::manifest::Manifest;
use libfuzzer_sys::fuzz_target;

/// Objects of the layer that a page is of.
const OBJECTS: usize = 4;

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::decode(data) {
        assert_eq!(manifest.encode(), data);
    }
    if let Ok((directory, _)) = LayerDirectory::decode_tail(data, data.len() as u64) {
        assert!(directory.pages.len() + directory.marks.len() < data.len());
    }
    if let Ok(page) = Page::decode(data, OBJECTS) {
        assert_eq!(page.encoded_len(), data.len());
        let frames = page.frames.iter();
        assert!(
            frames
                .clone()
                .all(|frame| (frame.object as usize) < OBJECTS)
        );
    }
    if let Ok(marks) = Marks::decode(data) {
        assert_eq!(marks.encoded_len(), data.len());
    }
});
