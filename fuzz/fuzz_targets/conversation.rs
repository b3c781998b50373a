#![no_main]
#![allow(missing_docs, reason = "an executable")]
libfuzzer_sys::fuzz_target!(|octets: &[u8]| testkit_pure::fuzz::conversation(octets));
