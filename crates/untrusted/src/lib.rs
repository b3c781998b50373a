//! What others control: text on its way to a person, and files in directories where others may write.
//!
//! [`text`] makes foreign text fit for a terminal and bounds it; [`say`] is the programs' only way to one. [`files`] creates,
//! replaces and appends to files, and never through a name that another user has planted. Must not know: MSRP, sockets.

pub mod files;
pub mod say;
pub mod text;
