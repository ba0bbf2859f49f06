"""What meets other libraries on their own ground; each module needs the extra that it names."""
