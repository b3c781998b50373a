//! What the service manager is told, through the socket that it names in NOTIFY_SOCKET.
