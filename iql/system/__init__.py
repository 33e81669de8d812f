"""The machine below the other rooms: files, locks, downloads, the data cache, memory and cores; imports only errors."""
