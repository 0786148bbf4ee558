"""Models: their settings (`settings`), loading (`load`), text (`text`), adapters (`lora`), and chat servers (`server`)."""
