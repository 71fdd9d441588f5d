module example.com/zbus

go 1.24
