//! The worked examples of `data/vectors.json`.

use serde_json::Value;

/// All of them.
pub fn all() -> Value {
    serde_json::from_str(include_str!("../data/vectors.json")).unwrap()
}

/// The text of the first frame whose tag begins with `tag`.
pub fn frame(tag: &str) -> String {
    let vectors = all();
    let frames = vectors["frames"].as_array().unwrap();
    let frame = frames.iter().find(|frame| frame["tag"].as_str().unwrap().starts_with(tag));
    frame.unwrap()["text"].as_str().unwrap().to_owned()
}
