#![no_main]
#![allow(missing_docs, reason = "an executable")]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| msrp_tls::by_hand::records(bytes));
