//! Input that others control: text on its way to a person, and files in directories where others may write.
//!
//! [`text`] makes foreign text fit for a terminal and bounds it. [`say`] is the programs' only way to a terminal.
//! [`files`] creates, replaces and appends to files, and never through a name that another user has planted. Must not
//! know MSRP or sockets.

pub mod files;
pub mod say;
pub mod text;
