//! `msrp`, the client tool: all of it is in the crate `msrp-cli`. The target stands here, beside the relay's, so that the tests
//! of this package find both programs.

use std::process::ExitCode;

fn main() -> ExitCode {
    msrp_cli::main()
}
