<<<<<<< HEAD
//! Does what the relay decided: the only code that touches sockets, TLS and the executor.

pub mod sock;
pub mod tls;
=======
//! Does what `relay` decides: the code on glommio.

pub mod preflight;
>>>>>>> 4565ee7 (Add the control plane and the checks before boot)
