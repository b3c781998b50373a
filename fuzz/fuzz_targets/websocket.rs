#![no_main]
#![allow(missing_docs, reason = "an executable")]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| testkit_pure::fuzz::websocket(bytes));
